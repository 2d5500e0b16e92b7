//! The values of one column of a chunk, ready to be copied.

use std::ops::Range;

use arrow_array::{
    Array, ArrayRef, BinaryArray, BinaryViewArray, FixedSizeBinaryArray, LargeBinaryArray, LargeStringArray,
    StringArray, StringViewArray,
    cast::AsArray,
    make_array,
    types::{Decimal32Type, Decimal64Type, Decimal128Type, Float16Type},
};
use arrow_buffer::{Buffer, NullBuffer};
use arrow_data::ArrayData;
use arrow_schema::DataType as ArrowType;
use ringmill_wire::DataType;

use super::accept::{Lane, factor, lane, own_lane};

/// A value for each row.
pub(super) enum Values {
    /// there is none: all are null
    Absent,
    /// of the column's width, one after the other
    Fixed(Buffer),
    Bytes(Bytes),
    /// the items of all rows, of the column's width, and which of them each row has
    Lists(Buffer, Vec<Range<usize>>),
}

/// A column of a chunk.
pub(super) struct Loaded {
    pub values: Values,
    pub nulls: Option<NullBuffer>,
    /// rows whose values, which are no nulls, do not fit
    pub misfits: Vec<(usize, Misfit)>,
}

/// Why a row's value does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misfit {
    /// it is null
    Null,
    /// it is a list with a null in it
    NullItem,
    /// it is beyond what the column holds
    Beyond,
    /// it is no text
    NoText,
}

/// Text or bytes in one of their forms.
pub(super) enum Bytes {
    Utf8(StringArray),
    LargeUtf8(LargeStringArray),
    Utf8View(StringViewArray),
    Binary(BinaryArray),
    LargeBinary(LargeBinaryArray),
    BinaryView(BinaryViewArray),
    Sized(FixedSizeBinaryArray),
    /// each row's place among the values
    Keyed(Box<Bytes>, Vec<usize>),
}

impl Bytes {
    fn of(array: &ArrayRef) -> Option<Bytes> {
        Some(match array.data_type() {
            ArrowType::Utf8 => Bytes::Utf8(array.as_string().clone()),
            ArrowType::LargeUtf8 => Bytes::LargeUtf8(array.as_string().clone()),
            ArrowType::Utf8View => Bytes::Utf8View(array.as_string_view().clone()),
            ArrowType::Binary => Bytes::Binary(array.as_binary().clone()),
            ArrowType::LargeBinary => Bytes::LargeBinary(array.as_binary().clone()),
            ArrowType::BinaryView => Bytes::BinaryView(array.as_binary_view().clone()),
            ArrowType::FixedSizeBinary(_) => Bytes::Sized(array.as_fixed_size_binary().clone()),
            ArrowType::Dictionary(..) => {
                let dictionary = array.as_any_dictionary();
                // Without values all keys are null, and none is asked for.
                let is_empty = dictionary.values().is_empty();
                let keys = if is_empty { Vec::new() } else { dictionary.normalized_keys() };
                Bytes::Keyed(Box::new(Bytes::of(dictionary.values())?), keys)
            }
            _ => return None,
        })
    }

    /// Of a row that is not null.
    #[inline]
    pub fn value(&self, row: usize) -> &[u8] {
        match self {
            Bytes::Utf8(array) => array.value(row).as_bytes(),
            Bytes::LargeUtf8(array) => array.value(row).as_bytes(),
            Bytes::Utf8View(array) => array.value(row).as_bytes(),
            Bytes::Binary(array) => array.value(row),
            Bytes::LargeBinary(array) => array.value(row),
            Bytes::BinaryView(array) => array.value(row),
            Bytes::Sized(array) => array.value(row),
            Bytes::Keyed(values, keys) => values.value(keys[row]),
        }
    }

    fn is_text(&self) -> bool {
        match self {
            Bytes::Utf8(_) | Bytes::LargeUtf8(_) | Bytes::Utf8View(_) => true,
            Bytes::Keyed(values, _) => values.is_text(),
            _ => false,
        }
    }
}

/// How many bytes the rows of an array have whose values stand once for any number of rows; 0 for other arrays, whose bytes
/// are there.
pub(super) fn shared_bytes(array: &ArrayRef, nulls: Option<&NullBuffer>) -> u64 {
    use ArrowType as A;
    let is_shared = matches!(array.data_type(), A::Dictionary(..) | A::BinaryView | A::Utf8View);
    let Some(bytes) = Bytes::of(array).filter(|_| is_shared) else { return 0 };
    let rows = (0..array.len()).filter(|row| nulls.is_none_or(|nulls| nulls.is_valid(*row)));
    rows.map(|row| bytes.value(row).len() as u64).sum()
}

/// Makes the values of an array those of a column that takes them; `None`: it does not.
pub(super) fn load(array: &ArrayRef, nulls: Option<NullBuffer>, to: DataType) -> Option<Loaded> {
    let is_valid = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
    let (values, misfits) = match (array.data_type(), to) {
        (ArrowType::Null, _) => (Values::Absent, Vec::new()),
        (ArrowType::Boolean, _) => {
            let bits = array.as_boolean().values();
            (Values::Fixed(Buffer::from_vec(bits.iter().map(u8::from).collect::<Vec<u8>>())), Vec::new())
        }
        (ArrowType::List(_) | ArrowType::LargeList(_) | ArrowType::FixedSizeList(..), DataType::List(item)) => {
            lists(array, item.data_type(), is_valid)?
        }
        (ArrowType::Decimal32(..) | ArrowType::Decimal64(..) | ArrowType::Decimal128(..), _) => decimals(array, to)?,
        (ArrowType::Dictionary(_, value), _) if lane(value).is_some() => {
            let dictionary = array.as_any_dictionary();
            let taken = arrow_select::take::take(dictionary.values(), dictionary.keys(), None).ok()?;
            fixed(&taken, to)?
        }
        (_, DataType::Utf8 | DataType::Binary) => {
            let bytes = Bytes::of(array)?;
            let is_misfit = |row: &usize| is_valid(*row) && std::str::from_utf8(bytes.value(*row)).is_err();
            let are_checked = to == DataType::Utf8 && !bytes.is_text();
            let misfits = (0..array.len()).filter(|row| are_checked && is_misfit(row));
            let misfits = misfits.map(|row| (row, Misfit::NoText)).collect();
            (Values::Bytes(bytes), misfits)
        }
        _ => fixed(array, to)?,
    };
    let misfits = misfits.into_iter().filter(|(row, _)| is_valid(*row)).collect();
    Some(Loaded { values, nulls, misfits })
}

type Converted = (Values, Vec<(usize, Misfit)>);

fn fixed(array: &ArrayRef, to: DataType) -> Option<Converted> {
    let (buffer, beyond) = numbers(&array.to_data(), to)?;
    Some((Values::Fixed(buffer), beyond.into_iter().map(|row| (row, Misfit::Beyond)).collect()))
}

/// Numbers as the column has them, and which of them are beyond it.
fn numbers(data: &ArrayData, to: DataType) -> Option<(Buffer, Vec<usize>)> {
    let (from, own) = (lane(data.data_type())?, own_lane(to)?);
    let factor = match to {
        DataType::Timestamp(unit) => factor(data.data_type(), unit)?,
        _ => 1,
    };
    if from == own && factor == 1 {
        let (Lane::Signed(width) | Lane::Unsigned(width) | Lane::Float(width)) = own;
        let bytes = data.buffers().first()?.slice_with_length(data.offset() * width, data.len() * width);
        return Some((bytes, Vec::new()));
    }
    if let Lane::Float(to) = own {
        let values = floats(data, from)?;
        let buffer = match to {
            4 => Buffer::from_vec(values.into_iter().map(|value| value as f32).collect::<Vec<f32>>()),
            _ => Buffer::from_vec(values),
        };
        return Some((buffer, Vec::new()));
    }
    let values: Vec<i128> = integers(data, from)?.into_iter().map(|value| value * i128::from(factor)).collect();
    macro_rules! narrow {
        ($type:ty) => {{
            let beyond = |(_, value): &(usize, &i128)| <$type>::try_from(**value).is_err();
            let beyond = values.iter().enumerate().filter(beyond).map(|(row, _)| row).collect();
            (Buffer::from_vec(values.iter().map(|value| *value as $type).collect::<Vec<$type>>()), beyond)
        }};
    }
    Some(match own {
        Lane::Signed(1) => narrow!(i8),
        Lane::Signed(2) => narrow!(i16),
        Lane::Signed(4) => narrow!(i32),
        Lane::Signed(_) => narrow!(i64),
        Lane::Unsigned(1) => narrow!(u8),
        Lane::Unsigned(2) => narrow!(u16),
        Lane::Unsigned(4) => narrow!(u32),
        Lane::Unsigned(_) => narrow!(u64),
        Lane::Float(_) => return None,
    })
}

fn integers(data: &ArrayData, lane: Lane) -> Option<Vec<i128>> {
    macro_rules! each {
        ($type:ty) => {
            data.buffer::<$type>(0).iter().take(data.len()).map(|value| i128::from(*value)).collect()
        };
    }
    Some(match lane {
        Lane::Signed(1) => each!(i8),
        Lane::Signed(2) => each!(i16),
        Lane::Signed(4) => each!(i32),
        Lane::Signed(_) => each!(i64),
        Lane::Unsigned(1) => each!(u8),
        Lane::Unsigned(2) => each!(u16),
        Lane::Unsigned(4) => each!(u32),
        Lane::Unsigned(_) => each!(u64),
        Lane::Float(_) => return None,
    })
}

fn floats(data: &ArrayData, lane: Lane) -> Option<Vec<f64>> {
    Some(match lane {
        Lane::Float(2) => {
            let array = make_array(data.clone());
            array.as_primitive::<Float16Type>().values().iter().map(|value| value.to_f64()).collect()
        }
        Lane::Float(4) => data.buffer::<f32>(0).iter().take(data.len()).map(|value| f64::from(*value)).collect(),
        Lane::Float(_) => data.buffer::<f64>(0)[..data.len()].to_vec(),
        _ => integers(data, lane)?.into_iter().map(|value| value as f64).collect(),
    })
}

fn decimals(array: &ArrayRef, to: DataType) -> Option<Converted> {
    macro_rules! texts {
        ($type:ty) => {{
            let decimals = array.as_primitive::<$type>();
            (0..array.len()).map(|row| decimals.is_valid(row).then(|| decimals.value_as_string(row))).collect()
        }};
    }
    let texts: StringArray = match array.data_type() {
        ArrowType::Decimal32(..) => texts!(Decimal32Type),
        ArrowType::Decimal64(..) => texts!(Decimal64Type),
        _ => texts!(Decimal128Type),
    };
    if to == DataType::Utf8 {
        return Some((Values::Bytes(Bytes::Utf8(texts)), Vec::new()));
    }
    let float = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or_default();
    Some((Values::Fixed(Buffer::from_vec(texts.iter().map(float).collect::<Vec<f64>>())), Vec::new()))
}

fn lists(array: &ArrayRef, item: DataType, is_valid: impl Fn(usize) -> bool) -> Option<Converted> {
    let rows = 0..array.len();
    let (mut ranges, items): (Vec<Range<usize>>, &ArrayRef) = match array.data_type() {
        ArrowType::List(_) => {
            let list = array.as_list::<i32>();
            let offsets = list.value_offsets();
            (rows.map(|row| offsets[row] as usize..offsets[row + 1] as usize).collect(), list.values())
        }
        ArrowType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let offsets = list.value_offsets();
            (rows.map(|row| offsets[row] as usize..offsets[row + 1] as usize).collect(), list.values())
        }
        _ => {
            let list = array.as_fixed_size_list();
            let width = usize::try_from(list.value_length()).ok()?;
            (rows.map(|row| row * width..(row + 1) * width).collect(), list.values())
        }
    };
    // Only the items of these rows are looked at.
    let first = ranges.first().map_or(0, |range| range.start);
    let last = ranges.last().map_or(0, |range| range.end);
    let items = items.slice(first, last - first);
    let (buffer, beyond) = numbers(&items.to_data(), item)?;
    let (beyond, nulls) = (beyond.into_iter().collect::<std::collections::BTreeSet<_>>(), items.logical_nulls());
    let mut misfits = Vec::new();
    for (row, range) in ranges.iter_mut().enumerate() {
        *range = range.start - first..range.end - first;
        let has_null = nulls.as_ref().is_some_and(|nulls| nulls.slice(range.start, range.len()).null_count() > 0);
        if !is_valid(row) {
            continue;
        }
        if has_null {
            misfits.push((row, Misfit::NullItem));
        } else if beyond.range(range.clone()).next().is_some() {
            misfits.push((row, Misfit::Beyond));
        }
    }
    Some((Values::Lists(buffer, ranges), misfits))
}
