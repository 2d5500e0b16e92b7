//! Which SQL type a column has.

use ringmill_wire::DataType;

/// A type of PostgreSQL that rows are sent as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqlType {
    /// as one writes it
    pub name: &'static str,
    /// as `pg_type` has it
    pub catalog: &'static str,
    /// its number, the same in every server
    pub oid: u32,
}

const fn sql(name: &'static str, catalog: &'static str, oid: u32) -> SqlType {
    SqlType { name, catalog, oid }
}

const BOOLEAN: SqlType = sql("boolean", "bool", 16);
const BYTEA: SqlType = sql("bytea", "bytea", 17);
const BIGINT: SqlType = sql("bigint", "int8", 20);
const SMALLINT: SqlType = sql("smallint", "int2", 21);
const INTEGER: SqlType = sql("integer", "int4", 23);
const TEXT: SqlType = sql("text", "text", 25);
const REAL: SqlType = sql("real", "float4", 700);
const DOUBLE: SqlType = sql("double precision", "float8", 701);
const TIMESTAMPTZ: SqlType = sql("timestamptz", "timestamptz", 1184);
const NUMERIC: SqlType = sql("numeric", "numeric", 1700);

/// The type of a column, or of the items of its lists; see [`PostgresSink`](crate::PostgresSink).
pub fn sql_type(data_type: DataType) -> SqlType {
    match data_type {
        DataType::Bool => BOOLEAN,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => SMALLINT,
        DataType::Int32 | DataType::UInt16 => INTEGER,
        DataType::Int64 | DataType::UInt32 => BIGINT,
        DataType::UInt64 => NUMERIC,
        DataType::Float32 => REAL,
        DataType::Float64 => DOUBLE,
        DataType::Utf8 => TEXT,
        DataType::Binary => BYTEA,
        DataType::Timestamp(_) => TIMESTAMPTZ,
        DataType::List(item) => sql_type(item.data_type()),
    }
}

/// The type as one declares it.
#[cfg(feature = "postgres")]
pub fn declared(data_type: DataType) -> String {
    let is_list = matches!(data_type, DataType::List(_));
    format!("{}{}", sql_type(data_type).name, if is_list { "[]" } else { "" })
}
