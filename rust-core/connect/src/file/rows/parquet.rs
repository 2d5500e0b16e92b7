//! Parquet files, one row group after the other.
//!
//! Before a row group is decoded, the headers of the pages that are needed are looked at: none may become larger, nor
//! have more values, than [`PAGE_BYTES_MAX`] and [`PAGE_VALUES_MAX`] say, whatever the file claims.

use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

use arrow_array::RecordBatch;
use arrow_schema::{DataType as ArrowType, Field, Fields, Schema, SchemaRef, TimeUnit};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
        },
    },
    basic::{Compression, ConvertedType, Type as Physical},
    errors::ParquetError,
    file::metadata::{ColumnChunkMetaData, FileMetaData, ParquetMetaData},
    schema::types::{SchemaDescriptor, Type, TypePtr},
};

use super::{
    Trouble,
    columns::{Batches, CHUNK_ROWS},
    thrift::{PageHeader, check_schema},
};
use crate::formats::columns::Columns;

const MAGIC: &[u8; 4] = b"PAR1";
/// The length of the metadata and the magic number.
const TAIL_BYTES: u64 = 8;
/// Metadata is no longer than this.
const METADATA_BYTES_MAX: u64 = 256 << 20;
/// A page is no larger than this when it is decompressed; writers make them of about 1 MiB.
const PAGE_BYTES_MAX: i64 = 256 << 20;
/// A page has no more values than this; writers put some ten thousand into one.
const PAGE_VALUES_MAX: i64 = 32 << 20;
/// Bytes of a page's header that are read at first, and at most.
const HEADER_BYTES: [u64; 2] = [4 << 10, 1 << 20];
/// In this encoding a value takes over the beginning of the one before it, so that all of a page's bytes may stand in each.
const DELTA_BYTE_ARRAY: i64 = 7;
/// What the rows of a chunk may take that are encoded so, or that are as long as the schema says, however little of them is
/// in the file.
const LONG_BYTES_MAX: i64 = if cfg!(test) { 1 << 20 } else { 256 << 20 };
/// Lists of a chunk have about so many items.
const ITEMS_MAX: i64 = if cfg!(test) { 100 } else { 8 << 20 };

/// A Parquet file.
pub(super) struct ParquetFile {
    file: File,
    bytes: u64,
    metadata: ArrowReaderMetadata,
    /// the columns as the file has them
    schema: SchemaRef,
    mask: ProjectionMask,
    /// the row group that is read next
    group: usize,
    /// … and how many of its rows are passed over
    skip: u64,
    open: Option<OpenGroup>,
}

struct OpenGroup {
    reader: ParquetRecordBatchReader,
    /// rows that are still to come
    left: u64,
}

impl ParquetFile {
    pub fn open(file: File) -> Result<ParquetFile, Trouble> {
        let bytes = check_metadata(&file)?;
        // What Arrow's writers leave there is not needed: the types of Parquet say it all.
        let options = || ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::load(&file, options()).map_err(Trouble::broken)?;
        let root = metadata.parquet_schema().root_schema_ptr();
        let schema = Arc::new(Schema::new(read_as(metadata.schema().fields(), &root)));
        let metadata = without_text(metadata.metadata()).map_err(Trouble::broken)?;
        let as_bytes = ArrowReaderMetadata::try_new(Arc::clone(&metadata), options()).map_err(Trouble::broken)?;
        let viewed = Arc::new(Schema::new(as_views(&read_as(as_bytes.schema().fields(), &root))));
        let metadata = ArrowReaderMetadata::try_new(metadata, options().with_schema(viewed));
        let metadata = metadata.map_err(Trouble::broken)?;
        for (index, group) in metadata.metadata().row_groups().iter().enumerate() {
            if group.num_rows() < 0 {
                return Err(Trouble::Broken(format!("row group {index} has {} rows", group.num_rows())));
            }
        }
        let mask = ProjectionMask::all();
        Ok(ParquetFile { file, bytes, metadata, schema, mask, group: 0, skip: 0, open: None })
    }

    fn groups(&self) -> usize {
        self.metadata.metadata().num_row_groups()
    }

    fn group_rows(&self, group: usize) -> u64 {
        self.metadata.metadata().row_group(group).num_rows().unsigned_abs()
    }

    fn open_group(&mut self) -> Result<OpenGroup, Trouble> {
        let chunk_rows = self.check_group(self.group)?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.try_clone()?, self.metadata.clone());
        let builder = builder.with_row_groups(vec![self.group]).with_projection(self.mask.clone());
        let skip = usize::try_from(self.skip).map_err(Trouble::broken)?;
        let reader = builder.with_batch_size(chunk_rows).with_offset(skip).build().map_err(Trouble::broken)?;
        Ok(OpenGroup { reader, left: self.group_rows(self.group) - self.skip })
    }

    /// Looks at the pages of a row group; how many rows may be decoded at a time.
    fn check_group(&self, index: usize) -> Result<usize, Trouble> {
        let group = self.metadata.metadata().row_group(index);
        let mut chunk_rows = CHUNK_ROWS;
        for (leaf, column) in group.columns().iter().enumerate().filter(|(leaf, _)| self.mask.leaf_included(*leaf)) {
            let at = |reason: String| {
                let name = self.metadata.parquet_schema().column(leaf).path().string();
                Trouble::Broken(format!("row group {index}, column {name}: {reason}"))
            };
            match column.compression() {
                Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_) | Compression::LZ4_RAW => {}
                other => {
                    let known = "uncompressed, snappy, zstd and lz4_raw are read";
                    return Err(at(format!("it is compressed with {other}; {known}")));
                }
            }
            chunk_rows = chunk_rows.min(self.check_pages(column, group.num_rows()).map_err(at)?);
        }
        Ok(chunk_rows)
    }

    /// The same of a column of so many rows.
    fn check_pages(&self, column: &ColumnChunkMetaData, rows: i64) -> Result<usize, String> {
        // Where the decoder begins, too.
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let (start, length) = match (u64::try_from(start), u64::try_from(column.compressed_size())) {
            (Ok(start), Ok(length)) => (start, length),
            _ => return Err("its place in the file is negative".to_owned()),
        };
        let end = start.checked_add(length).filter(|end| *end <= self.bytes);
        let end = end.ok_or_else(|| format!("its {length} bytes at byte {start} lie beyond the file's end"))?;
        let at_most = |fitting: i64| usize::try_from(fitting).unwrap_or(CHUNK_ROWS).clamp(1, CHUNK_ROWS);
        let descriptor = column.column_descr();
        let is_sized = descriptor.physical_type() == Physical::FIXED_LEN_BYTE_ARRAY;
        let length = if is_sized { i64::from(descriptor.type_length()) } else { 0 };
        let (mut at, mut values, mut chunk_rows) = (start, 0_i64, at_most(LONG_BYTES_MAX / length.max(1)));
        while at < end {
            let header = self.page_header(at, end).map_err(|reason| format!("page header at byte {at}: {reason}"))?;
            let refuse = |what: &str, value: i64| Err(format!("the page at byte {at} has {value} {what}"));
            let room = i64::try_from(end - at - header.header_bytes).unwrap_or(i64::MAX);
            if !(0..=room).contains(&header.compressed_bytes) {
                return refuse("compressed bytes, which are not there", header.compressed_bytes);
            }
            if !(0..=PAGE_BYTES_MAX).contains(&header.bytes) {
                return refuse("bytes when it is decompressed; at most 256 MiB are read at a time", header.bytes);
            }
            if !(0..=PAGE_VALUES_MAX).contains(&header.values) {
                return refuse("values, which are too many", header.values);
            }
            if header.encoding == DELTA_BYTE_ARRAY {
                chunk_rows = chunk_rows.min(at_most(LONG_BYTES_MAX / header.bytes.max(1)));
            }
            values = values.saturating_add(header.values);
            at += header.header_bytes + header.compressed_bytes.unsigned_abs();
        }
        if descriptor.max_rep_level() > 0 {
            let items = (values / rows.max(1)).max(1);
            chunk_rows = chunk_rows.min(at_most(ITEMS_MAX / items));
        }
        Ok(chunk_rows)
    }

    fn page_header(&self, at: u64, end: u64) -> Result<PageHeader, String> {
        let [first, most] = HEADER_BYTES.map(|bytes| bytes.min(end - at));
        let read = |length: u64| {
            let mut bytes = vec![0; length as usize];
            self.file.read_exact_at(&mut bytes, at).map_err(|error| error.to_string())?;
            PageHeader::read(&bytes).map_err(|broken| broken.what().to_owned())
        };
        read(first).or_else(|reason| if first == most { Err(reason) } else { read(most) })
    }
}

/// Looks at the end of a file and at the schema; how long it is.
fn check_metadata(file: &File) -> Result<u64, Trouble> {
    let bytes = file.metadata()?.len();
    let mut head = [0; 4];
    if bytes < TAIL_BYTES + 4 || file.read_exact_at(&mut head, 0).is_err() || head != *MAGIC {
        return Err(Trouble::broken("it is not a Parquet file, which begins with PAR1"));
    }
    let mut tail = [0; TAIL_BYTES as usize];
    file.read_exact_at(&mut tail, bytes - TAIL_BYTES)?;
    let (length, magic) = tail.split_at(4);
    if magic != MAGIC {
        return Err(Trouble::broken("it lacks its end, PAR1: it is not complete, or was cut"));
    }
    let length = u64::from(u32::from_le_bytes([length[0], length[1], length[2], length[3]]));
    if length > METADATA_BYTES_MAX || length > bytes - TAIL_BYTES - 4 {
        return Err(Trouble::Broken(format!("its metadata has {length} bytes, which are not there or too many")));
    }
    let mut metadata = vec![0; length as usize];
    file.read_exact_at(&mut metadata, bytes - TAIL_BYTES - length)?;
    check_schema(&metadata).map_err(|broken| Trouble::Broken(format!("its metadata: {}", broken.what())))?;
    Ok(bytes)
}

/// The same metadata with bytes in place of text: one value that is no text costs its row and not the file, and the decoder,
/// which believes a column that it is JSON, never calls text what is none.
fn without_text(metadata: &ParquetMetaData) -> Result<Arc<ParquetMetaData>, ParquetError> {
    fn bytes(of: &Type) -> Result<TypePtr, ParquetError> {
        let info = of.get_basic_info();
        let id = info.has_id().then(|| info.id());
        let built = match of {
            Type::GroupType { fields, .. } => {
                let fields = fields.iter().map(|field| bytes(field)).collect::<Result<Vec<_>, _>>()?;
                let group = Type::group_type_builder(info.name()).with_fields(fields).with_id(id);
                let group = group.with_converted_type(info.converted_type());
                let group = group.with_logical_type(info.logical_type_ref().cloned());
                if info.has_repetition() { group.with_repetition(info.repetition()) } else { group }.build()?
            }
            Type::PrimitiveType { physical_type: Physical::BYTE_ARRAY, .. }
                if matches!(info.converted_type(), ConvertedType::UTF8 | ConvertedType::JSON) =>
            {
                let column = Type::primitive_type_builder(info.name(), Physical::BYTE_ARRAY).with_id(id);
                column.with_repetition(info.repetition()).build()?
            }
            Type::PrimitiveType { .. } => of.clone(),
        };
        Ok(Arc::new(built))
    }
    let file = metadata.file_metadata();
    let schema = Arc::new(SchemaDescriptor::new(bytes(file.schema_descr().root_schema())?));
    let created_by = file.created_by().map(str::to_owned);
    let file = FileMetaData::new(file.version(), file.num_rows(), created_by, None, schema, None);
    Ok(Arc::new(ParquetMetaData::new(file, metadata.row_groups().to_vec())))
}

/// The same fields; times of 96 bits, which would not fit nanoseconds, are read as microseconds.
fn read_as(fields: &Fields, group: &Type) -> Fields {
    let each = |field: &Arc<Field>| {
        let of = group.get_fields().iter().find(|of| of.name() == field.name());
        let data_type = match (field.data_type(), of.map(|of| &**of)) {
            (ArrowType::Timestamp(..), Some(Type::PrimitiveType { physical_type: Physical::INT96, .. })) => {
                ArrowType::Timestamp(TimeUnit::Microsecond, None)
            }
            (ArrowType::Struct(fields), Some(group @ Type::GroupType { .. })) => {
                ArrowType::Struct(read_as(fields, group))
            }
            (other, _) => other.clone(),
        };
        field.as_ref().clone().with_data_type(data_type)
    };
    fields.iter().map(each).collect()
}

/// The same fields, bytes as views: however often a value stands in a page, it takes its bytes once.
fn as_views(fields: &Fields) -> Fields {
    let viewed = |field: &Arc<Field>| {
        let data_type = match field.data_type() {
            ArrowType::Binary | ArrowType::LargeBinary => ArrowType::BinaryView,
            ArrowType::Struct(fields) => ArrowType::Struct(as_views(fields)),
            other => other.clone(),
        };
        Arc::new(field.as_ref().clone().with_data_type(data_type))
    };
    fields.iter().map(viewed).collect()
}

impl Batches for ParquetFile {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn choose(&mut self, columns: &Columns) -> Result<(), Trouble> {
        let schema = self.metadata.parquet_schema();
        let leaves = (0..schema.num_columns()).filter(|leaf| columns.takes(schema.column(*leaf).path().parts()));
        self.mask = ProjectionMask::leaves(schema, leaves.collect::<Vec<_>>());
        Ok(())
    }

    fn seek(&mut self, row: u64) -> Result<(), Trouble> {
        (self.group, self.skip) = (0, row);
        while self.group < self.groups() && self.skip >= self.group_rows(self.group) {
            self.skip -= self.group_rows(self.group);
            self.group += 1;
        }
        if self.group == self.groups() && self.skip > 0 {
            return Err(Trouble::Broken(format!("it has only {} rows", row - self.skip)));
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<RecordBatch>, Trouble> {
        loop {
            if self.open.is_none() {
                if self.group == self.groups() {
                    return Ok(None);
                }
                // It has no pages, and what says where they are means nothing.
                if self.group_rows(self.group) == 0 {
                    self.group += 1;
                    continue;
                }
                self.open = Some(self.open_group()?);
            }
            let Some(open) = &mut self.open else { continue };
            match open.reader.next() {
                Some(batch) => {
                    let batch = batch.map_err(Trouble::broken)?;
                    let rows = batch.num_rows() as u64;
                    let left = open.left.checked_sub(rows);
                    open.left = left.ok_or_else(|| Trouble::broken("a row group has more rows than it says"))?;
                    if rows > 0 {
                        return Ok(Some(batch));
                    }
                }
                None if open.left > 0 => {
                    let (group, left) = (self.group, open.left);
                    return Err(Trouble::Broken(format!("row group {group} lacks {left} of its rows")));
                }
                None => {
                    (self.open, self.skip) = (None, 0);
                    self.group += 1;
                }
            }
        }
    }
}
