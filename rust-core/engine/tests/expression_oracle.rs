//! Expressions made at random, evaluated column by column and, by an interpreter without any cleverness, row by row.
//!
//! `RINGMILL_ORACLE_SEEDS=100000` tries more of them; `RINGMILL_ORACLE_FIRST=17 RINGMILL_ORACLE_SEEDS=1` one again.

mod window_support;

use std::cmp::Ordering;
use std::sync::Arc;

use ringmill_engine::expression::Expression;
use ringmill_wire::{Capacity, DataType, Field, HeapBatch, Schema, Template};
use window_support::Random;

const ROWS: usize = 70;

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Int(i128),
    Float(f64),
    Bool(bool),
    Text(String),
}

type Cell = Option<Value>;
type Compute = Box<dyn Fn(&[Cell]) -> Cell>;

/// A tree: what it is, its text, and how it is computed from a row.
struct Made {
    text: String,
    compute: Compute,
}

fn made(text: String, compute: impl Fn(&[Cell]) -> Cell + 'static) -> Made {
    Made { text, compute: Box::new(compute) }
}

const COLUMNS: [(&str, DataType); 5] = [
    ("i", DataType::Int64),
    ("u", DataType::UInt64),
    ("f", DataType::Float64),
    ("name", DataType::Utf8),
    ("hot", DataType::Bool),
];

fn column(index: usize) -> Made {
    made(COLUMNS[index].0.to_owned(), move |row| row[index].clone())
}

fn number(random: &mut Random, depth: u64) -> Made {
    if depth == 0 || random.chance(3) {
        let small = random.below(6) as i128;
        let half = random.below(12) as f64 / 2.0;
        return match random.below(8) {
            0 => made(small.to_string(), move |_| Some(Value::Int(small))),
            1 => made(format!("{half:?}"), move |_| Some(Value::Float(half))),
            2 => made(i128::MAX.to_string(), |_| Some(Value::Int(i128::MAX))),
            3 => made("null".into(), |_| None),
            at => column(at as usize % 3),
        };
    }
    let a = number(random, depth - 1);
    match random.below(7) {
        0 => made(format!("(-{})", a.text), move |row| match (a.compute)(row)? {
            Value::Int(value) => value.checked_neg().map(Value::Int),
            Value::Float(value) => Some(Value::Float(-value)),
            _ => unreachable!(),
        }),
        1 => made(format!("abs({})", a.text), move |row| match (a.compute)(row)? {
            Value::Int(value) => value.checked_abs().map(Value::Int),
            Value::Float(value) => Some(Value::Float(value.abs())),
            _ => unreachable!(),
        }),
        at => {
            let b = number(random, depth - 1);
            let sign = ["+", "-", "*", "/", "%"][at as usize - 2];
            made(format!("({} {sign} {})", a.text, b.text), move |row| {
                arithmetic(sign, (a.compute)(row)?, (b.compute)(row)?)
            })
        }
    }
}

fn arithmetic(sign: &str, a: Value, b: Value) -> Cell {
    if let (Value::Int(a), Value::Int(b), true) = (&a, &b, sign != "/") {
        let result = match sign {
            "+" => a.checked_add(*b),
            "-" => a.checked_sub(*b),
            "*" => a.checked_mul(*b),
            _ => a.checked_rem(*b),
        };
        return result.map(Value::Int);
    }
    let float = |value: Value| match value {
        Value::Int(value) => value as f64,
        Value::Float(value) => value,
        _ => unreachable!(),
    };
    let (a, b) = (float(a), float(b));
    Some(Value::Float(match sign {
        "+" => a + b,
        "-" => a - b,
        "*" => a * b,
        "/" => a / b,
        _ => a % b,
    }))
}

fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Float(b)) => {
            let rounded = (*a as f64).partial_cmp(b)?;
            // Where rounding made them equal, the double is whole and fits, or is 2^127.
            Some(if rounded.is_eq() && *b < 1.7e38 {
                a.cmp(&(*b as i128))
            } else if rounded.is_eq() {
                Ordering::Less
            } else {
                rounded
            })
        }
        (Value::Float(_), Value::Int(_)) => order(b, a).map(Ordering::reverse),
        _ => unreachable!(),
    }
}

fn holds(sign: &str, a: &Value, b: &Value) -> bool {
    let order = order(a, b);
    match sign {
        "==" => order == Some(Ordering::Equal),
        "!=" => order != Some(Ordering::Equal),
        "<" => order == Some(Ordering::Less),
        "<=" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        ">" => order == Some(Ordering::Greater),
        _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}

fn text(random: &mut Random) -> Made {
    let value = ["a", "b", "it's", ""][random.below(4) as usize];
    if random.chance(2) {
        column(3)
    } else {
        made(format!("'{}'", value.replace('\'', "''")), move |_| Some(Value::Text(value.into())))
    }
}

fn truth(cell: Cell) -> Option<bool> {
    match cell? {
        Value::Bool(value) => Some(value),
        _ => unreachable!(),
    }
}

fn either(a: Option<bool>, b: Option<bool>, decisive: bool) -> Cell {
    match (a, b) {
        (Some(value), _) | (_, Some(value)) if value == decisive => Some(Value::Bool(decisive)),
        _ if b == Some(decisive) => Some(Value::Bool(decisive)),
        (Some(_), Some(_)) => Some(Value::Bool(!decisive)),
        _ => None,
    }
}

fn condition(random: &mut Random, depth: u64) -> Made {
    if depth == 0 {
        return if random.chance(4) { made("true".into(), |_| Some(Value::Bool(true))) } else { column(4) };
    }
    match random.below(9) {
        0 => {
            let a = condition(random, depth - 1);
            made(format!("not ({})", a.text), move |row| truth((a.compute)(row)).map(|value| Value::Bool(!value)))
        }
        at @ (1 | 2) => {
            let (a, b) = (condition(random, depth - 1), condition(random, depth - 1));
            let (word, decisive) = if at == 1 { ("or", true) } else { ("and", false) };
            made(format!("({} {word} {})", a.text, b.text), move |row| {
                either(truth((a.compute)(row)), truth((b.compute)(row)), decisive)
            })
        }
        3 => {
            let (a, negated) = (number(random, depth - 1), random.chance(2));
            let words = if negated { "is not null" } else { "is null" };
            made(format!("({} {words})", a.text), move |row| Some(Value::Bool((a.compute)(row).is_none() != negated)))
        }
        at @ (4 | 5) => {
            let sides = |random: &mut Random| if at == 4 { number(random, depth - 1) } else { text(random) };
            let a = sides(random);
            let items: Vec<Made> = (0..1 + random.below(3)).map(|_| sides(random)).collect();
            let negated = random.chance(2);
            let texts: Vec<&str> = items.iter().map(|item| item.text.as_str()).collect();
            let word = if negated { "not in" } else { "in" };
            made(format!("{} {word} ({})", a.text, texts.join(", ")), move |row| {
                let a = (a.compute)(row);
                let equal = |item: &Made| Some(holds("==", a.as_ref()?, (item.compute)(row).as_ref()?));
                let mut found = Some(Value::Bool(false));
                for item in &items {
                    found = either(truth(found), equal(item), true);
                }
                truth(found).map(|found| Value::Bool(found != negated))
            })
        }
        at => {
            let (a, b) = match at {
                6 => (text(random), text(random)),
                7 => (condition(random, 0), condition(random, 0)),
                _ => (number(random, depth - 1), number(random, depth - 1)),
            };
            let sign = ["==", "!=", "<", "<=", ">", ">="][random.below(6) as usize];
            made(format!("({} {sign} {})", a.text, b.text), move |row| {
                Some(Value::Bool(holds(sign, &(a.compute)(row)?, &(b.compute)(row)?)))
            })
        }
    }
}

fn schema() -> Arc<Schema> {
    let fields = COLUMNS.iter().map(|(name, data_type)| Field::nullable(*name, *data_type)).collect();
    Arc::new(Schema::new(fields).unwrap())
}

fn random_cells(random: &mut Random) -> Vec<Cell> {
    let i = [0, 1, 2, -3, i64::MAX, i64::MIN, 1 << 53, (1 << 53) + 1][random.below(8) as usize];
    let u = [0, 1, 5, u64::MAX, 1 << 63][random.below(5) as usize];
    let f = [0.0, -0.0, 1.5, -3.0, f64::NAN, f64::INFINITY, 9_007_199_254_740_992.0, 9.223_372_036_854_776e18]
        [random.below(8) as usize];
    let name = ["a", "b", "it's", ""][random.below(4) as usize];
    let cells = [
        Value::Int(i.into()),
        Value::Int(u.into()),
        Value::Float(f),
        Value::Text(name.into()),
        Value::Bool(random.chance(2)),
    ];
    cells.into_iter().map(|value| if random.chance(5) { None } else { Some(value) }).collect()
}

fn batch(rows: &[Vec<Cell>]) -> HeapBatch {
    let capacity = Capacity { rows_max: ROWS as u32, variable_bytes_max: 1024 };
    let mut batch = HeapBatch::new(Arc::new(Template::new(schema(), capacity).unwrap()));
    let writer = batch.writer();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            match cell {
                None => writer.push_null(column),
                Some(Value::Int(value)) if column == 1 => writer.push(column, *value as u64),
                Some(Value::Int(value)) => writer.push(column, *value as i64),
                Some(Value::Float(value)) => writer.push(column, *value),
                Some(Value::Bool(value)) => writer.push(column, *value),
                Some(Value::Text(value)) => writer.push_str(column, value).unwrap(),
            }
        }
        writer.finish_row();
    }
    batch
}

/// The first expression of the seed on which both disagree.
fn disagreement(seed: u64, broken: bool) -> Option<String> {
    let mut random = Random(seed);
    let rows: Vec<Vec<Cell>> = (0..ROWS).map(|_| random_cells(&mut random)).collect();
    let batch = batch(&rows);
    let depth = 1 + random.below(4);
    let expression = condition(&mut random, depth);
    let mut predicate =
        Expression::parse(&expression.text).and_then(|parsed| parsed.bind(&schema())).unwrap_or_else(|error| {
            panic!("seed {seed}: {}: {error}", expression.text);
        });
    let mut selected = Vec::new();
    let cut = random.below(ROWS as u64) as usize;
    predicate.select(&batch.view(), 0..cut, &mut selected);
    predicate.select(&batch.view(), cut..ROWS, &mut selected);
    let passes = |row: &Vec<Cell>| truth((expression.compute)(row)).unwrap_or(broken);
    let expected: Vec<u32> = (0..ROWS as u32).filter(|row| passes(&rows[*row as usize])).collect();
    (selected != expected).then(|| format!("seed {seed}: {}: {selected:?}, not {expected:?}", expression.text))
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn expressions_agree_with_the_naive_interpreter() {
    let first = setting("RINGMILL_ORACLE_FIRST", 0);
    for seed in first..first + setting("RINGMILL_ORACLE_SEEDS", 3000) {
        if let Some(difference) = disagreement(seed, false) {
            panic!("{difference}");
        }
    }
}

#[test]
fn an_interpreter_that_takes_null_for_true_is_found_out() {
    let found = (0..200).filter(|seed| disagreement(*seed, true).is_some()).count();
    assert!(found > 50, "only {found} of 200 expressions told null from true");
}
