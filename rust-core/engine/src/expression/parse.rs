//! Tokens into a tree: precedence climbing (Pratt, 1973), with bounded depth.

use super::ExpressionError;
use super::token::{Token, tokens};

/// Deepest nesting; far beyond what anybody writes, far below what the stack holds.
const DEPTH_MAX: usize = 64;
/// Highest tree: a chain of operators grows one level with each. Binding and evaluation walk it on the stack (at 1,000
/// levels they were seen to fit 2 MiB, at 10,000 not).
const HEIGHT_MAX: usize = 400;

/// A two-sided operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named after their signs")]
pub enum Operator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// A part of an expression, with the offset of its beginning (for two-sided operators: of the operator).
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it stands in the text.
    pub offset: usize,
    /// What it is.
    pub form: Form,
    /// Levels of the tree below, itself included.
    height: usize,
}

impl Node {
    fn new(offset: usize, form: Form) -> Node {
        let below = match &form {
            Form::Not(inner) | Form::Negate(inner) | Form::Absolute(inner) | Form::IsNull(inner, _) => inner.height,
            Form::In(inner, items, _) => items.iter().map(|item| item.height).fold(inner.height, usize::max),
            Form::Binary(_, left, right) => left.height.max(right.height),
            Form::Column(_) | Form::Integer(_) | Form::Float(_) | Form::Text(_) | Form::Boolean(_) | Form::Null => 0,
        };
        Node { offset, form, height: below + 1 }
    }
}

/// What a part of an expression is.
#[derive(Clone, Debug)]
pub enum Form {
    /// A column by name.
    Column(String),
    /// A whole number.
    Integer(i128),
    /// Another number.
    Float(f64),
    /// A string.
    Text(String),
    /// `true` or `false`.
    Boolean(bool),
    /// `null`.
    Null,
    /// `not x`.
    Not(Box<Node>),
    /// `-x`.
    Negate(Box<Node>),
    /// `abs(x)`.
    Absolute(Box<Node>),
    /// `x is null`, or `x is not null` if the flag is set.
    IsNull(Box<Node>, bool),
    /// `x in (…)`, or `x not in (…)` if the flag is set.
    In(Box<Node>, Vec<Node>, bool),
    /// Two sides.
    Binary(Operator, Box<Node>, Box<Node>),
}

/// Parses a whole text.
pub fn parse(text: &str) -> Result<Node, ExpressionError> {
    let mut parser = Parser { tokens: tokens(text)?, next: 0, depth: 0 };
    if parser.peek() == &Token::End {
        return Err(ExpressionError::new(0, "there is no condition").hint("for example: score > 4.0"));
    }
    let node = parser.expression(0)?;
    match parser.peek() {
        Token::End => Ok(node),
        token => Err(ExpressionError::new(parser.offset(), format!("{} does not belong here", shown(token)))),
    }
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
}

/// How strongly comparisons bind; `not` binds between `and` and these.
const COMPARISON: u8 = 4;

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].1
    }

    fn offset(&self) -> usize {
        self.tokens[self.next].0
    }

    /// Takes the next token; the end stays where it is.
    fn take(&mut self) -> (usize, Token) {
        let token = self.tokens[self.next].clone();
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Token::Symbol(found) if *found == symbol);
        if found {
            self.take();
        }
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = is_word(self.peek(), word);
        if found {
            self.take();
        }
        found
    }

    fn expect(&mut self, symbol: &str) -> Result<(), ExpressionError> {
        if self.take_symbol(symbol) {
            return Ok(());
        }
        Err(ExpressionError::new(self.offset(), format!("expected {symbol:?}, got {}", shown(self.peek()))))
    }

    fn expression(&mut self, binding: u8) -> Result<Node, ExpressionError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(ExpressionError::new(self.offset(), format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let mut left = self.prefix()?;
        loop {
            left = match self.suffix(left, binding)? {
                Ok(longer) if longer.height > HEIGHT_MAX => {
                    let error =
                        ExpressionError::new(longer.offset, format!("more than {HEIGHT_MAX} operators in a row"));
                    return Err(error.hint("many alternatives are better written `x in (…)`"));
                }
                Ok(longer) => longer,
                Err(whole) => {
                    left = whole;
                    break;
                }
            };
        }
        self.depth -= 1;
        Ok(left)
    }

    /// One more operator on the right of `left`, if one that binds strongly enough stands there.
    fn suffix(&mut self, left: Node, binding: u8) -> Result<Result<Node, Node>, ExpressionError> {
        let offset = self.offset();
        if let Some((operator, strength)) = operator(self.peek()) {
            if strength < binding {
                return Ok(Err(left));
            }
            self.take();
            let right = self.expression(strength + 1)?;
            if strength == COMPARISON && operator_at(self.peek(), COMPARISON) {
                let error = ExpressionError::new(self.offset(), "comparisons cannot be chained");
                return Err(error.hint("write `a < b and b < c`"));
            }
            let form = Form::Binary(operator, Box::new(left), Box::new(right));
            return Ok(Ok(Node::new(offset, form)));
        }
        if binding > COMPARISON {
            return Ok(Err(left));
        }
        if self.take_word("is") {
            let negated = self.take_word("not");
            if !self.take_word("null") {
                return Err(ExpressionError::new(self.offset(), format!("expected null, got {}", shown(self.peek()))));
            }
            return Ok(Ok(Node::new(offset, Form::IsNull(Box::new(left), negated))));
        }
        let negated =
            is_word(self.peek(), "not") && is_word(&self.tokens[(self.next + 1).min(self.tokens.len() - 1)].1, "in");
        if negated {
            self.take();
        }
        if self.take_word("in") {
            let list = self.list()?;
            return Ok(Ok(Node::new(offset, Form::In(Box::new(left), list, negated))));
        }
        Ok(Err(left))
    }

    fn list(&mut self) -> Result<Vec<Node>, ExpressionError> {
        self.expect("(")?;
        let mut items = vec![self.expression(0)?];
        while self.take_symbol(",") {
            items.push(self.expression(0)?);
        }
        self.expect(")")?;
        Ok(items)
    }

    fn prefix(&mut self) -> Result<Node, ExpressionError> {
        let (offset, token) = self.take();
        let node = |form| Ok(Node::new(offset, form));
        match token {
            Token::Integer(value) => node(Form::Integer(value)),
            Token::Float(value) => node(Form::Float(value)),
            Token::Text(text) => node(Form::Text(text)),
            Token::Quoted(name) => node(Form::Column(name)),
            Token::Symbol("(") => {
                let inner = self.expression(0)?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Symbol("-") => node(Form::Negate(Box::new(self.expression(7)?))),
            Token::Name(name) => match name.to_ascii_lowercase().as_str() {
                "not" => node(Form::Not(Box::new(self.expression(3)?))),
                "true" => node(Form::Boolean(true)),
                "false" => node(Form::Boolean(false)),
                "null" => node(Form::Null),
                word @ ("and" | "or" | "is" | "in") => {
                    Err(ExpressionError::new(offset, format!("`{word}` needs something on its left")))
                }
                _ if matches!(self.peek(), Token::Symbol("(")) => self.call(offset, &name),
                _ => node(Form::Column(name)),
            },
            Token::End => Err(ExpressionError::new(offset, "the condition ends where a value should follow")),
            Token::Symbol(symbol) => {
                Err(ExpressionError::new(offset, format!("{symbol:?} needs something on its left")))
            }
        }
    }

    fn call(&mut self, offset: usize, name: &str) -> Result<Node, ExpressionError> {
        if name != "abs" {
            let error = ExpressionError::new(offset, format!("there is no function {name:?}"));
            return Err(error.hint("the only function is abs(x); anything else is a job for a UDF step"));
        }
        self.expect("(")?;
        let inner = self.expression(0)?;
        self.expect(")")?;
        Ok(Node::new(offset, Form::Absolute(Box::new(inner))))
    }
}

fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Name(name) if name.eq_ignore_ascii_case(word))
}

fn operator(token: &Token) -> Option<(Operator, u8)> {
    Some(match token {
        Token::Name(_) if is_word(token, "or") => (Operator::Or, 1),
        Token::Name(_) if is_word(token, "and") => (Operator::And, 2),
        Token::Symbol("==") => (Operator::Equal, COMPARISON),
        Token::Symbol("!=" | "<>") => (Operator::NotEqual, COMPARISON),
        Token::Symbol("<") => (Operator::Less, COMPARISON),
        Token::Symbol("<=") => (Operator::LessEqual, COMPARISON),
        Token::Symbol(">") => (Operator::Greater, COMPARISON),
        Token::Symbol(">=") => (Operator::GreaterEqual, COMPARISON),
        Token::Symbol("+") => (Operator::Add, 5),
        Token::Symbol("-") => (Operator::Subtract, 5),
        Token::Symbol("*") => (Operator::Multiply, 6),
        Token::Symbol("/") => (Operator::Divide, 6),
        Token::Symbol("%") => (Operator::Remainder, 6),
        _ => return None,
    })
}

fn operator_at(token: &Token, strength: u8) -> bool {
    operator(token).is_some_and(|(_, found)| found == strength)
}

fn shown(token: &Token) -> String {
    match token {
        Token::Name(name) | Token::Quoted(name) => format!("{name:?}"),
        Token::Integer(value) => value.to_string(),
        Token::Float(value) => value.to_string(),
        Token::Text(text) => format!("the string {text:?}"),
        Token::Symbol(symbol) => format!("{symbol:?}"),
        Token::End => "the end".to_owned(),
    }
}
