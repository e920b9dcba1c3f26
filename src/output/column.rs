//! What a column can hold, and the macro that turns a row struct into a table.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float64Array, Float64Builder, Int32Array, Int64Array, ListArray, ListBuilder,
    RecordBatch, StringArray, new_null_array,
};
use arrow::datatypes::{DataType, Field};
use serde::Serialize;

/// A Rust type that is one column of a table; `Option` makes the column nullable.
pub trait Cell: Sized {
    /// Arrow type of the column.
    fn data_type() -> DataType;
    /// Whether the column may hold nulls.
    const NULLABLE: bool;
    /// The column's array.
    fn array(values: impl Iterator<Item = Self>) -> ArrayRef;
    /// The column's values; the error says what was found instead.
    fn values(array: &dyn Array) -> Result<Vec<Self>, String>;
}

macro_rules! cell {
    ($type:ty, $array:ty, $arrow:expr) => {
        impl Cell for Option<$type> {
            const NULLABLE: bool = true;
            fn data_type() -> DataType {
                $arrow
            }
            fn array(values: impl Iterator<Item = Self>) -> ArrayRef {
                Arc::new(<$array>::from(values.collect::<Vec<_>>()))
            }
            fn values(array: &dyn Array) -> Result<Vec<Self>, String> {
                let typed = array.as_any().downcast_ref::<$array>();
                let typed =
                    typed.ok_or_else(|| format!("type {}, expected {}", array.data_type(), Self::data_type()))?;
                Ok(typed.iter().map(|value| value.map(<$type>::from)).collect())
            }
        }

        impl Cell for $type {
            const NULLABLE: bool = false;
            fn data_type() -> DataType {
                $arrow
            }
            fn array(values: impl Iterator<Item = Self>) -> ArrayRef {
                Arc::new(<$array>::from(values.collect::<Vec<_>>()))
            }
            fn values(array: &dyn Array) -> Result<Vec<Self>, String> {
                let values = Option::<$type>::values(array)?;
                let all: Option<Vec<_>> = values.into_iter().collect();
                all.ok_or_else(|| "a null, expected none".to_string())
            }
        }
    };
}

cell!(String, StringArray, DataType::Utf8);
cell!(i32, Int32Array, DataType::Int32);
cell!(i64, Int64Array, DataType::Int64);
cell!(f64, Float64Array, DataType::Float64);
cell!(bool, BooleanArray, DataType::Boolean);

/// A list of numbers in one cell, such as a row of a matrix.
impl Cell for Vec<f64> {
    const NULLABLE: bool = false;
    fn data_type() -> DataType {
        DataType::new_list(DataType::Float64, false)
    }
    fn array(values: impl Iterator<Item = Self>) -> ArrayRef {
        let item = Field::new_list_field(DataType::Float64, false);
        let mut lists = ListBuilder::new(Float64Builder::new()).with_field(item);
        for list in values {
            lists.values().append_slice(&list);
            lists.append(true);
        }
        Arc::new(lists.finish())
    }
    fn values(array: &dyn Array) -> Result<Vec<Self>, String> {
        let typed = array.as_any().downcast_ref::<ListArray>();
        let typed = typed.ok_or_else(|| format!("type {}, expected {}", array.data_type(), Self::data_type()))?;
        let list = |list: Option<ArrayRef>| f64::values(list.ok_or("a null, expected none")?.as_ref());
        typed.iter().map(list).collect()
    }
}

/// A row type that is a table: its name, its columns, and the way there and back.
pub trait Table: Sized {
    /// Name of the table, and of its folder.
    const NAME: &'static str;
    /// What one row is.
    fn row() -> String;
    /// The columns in order, with type, nullability and meaning.
    fn fields() -> Vec<Field>;
    /// One array per column.
    fn columns(rows: &[Self]) -> Vec<ArrayRef>;
    /// The rows of a batch; columns are found by name, others are ignored.
    fn rows(batch: &RecordBatch) -> Result<Vec<Self>, String>;
}

/// Values of a named column of a batch. A nullable one may be missing: it came later than the table.
pub(super) fn column<T: Cell>(batch: &RecordBatch, name: &str) -> Result<std::vec::IntoIter<T>, String> {
    let later = || T::NULLABLE.then(|| new_null_array(&T::data_type(), batch.num_rows()));
    let array = batch.column_by_name(name).cloned().or_else(later);
    let array = array.ok_or_else(|| format!("column `{name}` is missing"))?;
    let values = T::values(array.as_ref()).map_err(|found| format!("column `{name}`: found {found}"))?;
    Ok(values.into_iter())
}

/// What a table is, for those who read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableDescription {
    /// Its name.
    pub table: &'static str,
    /// What one row is.
    pub row: String,
    /// Its columns, in order.
    pub columns: Vec<ColumnDescription>,
}

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ColumnDescription {
    /// Its name.
    pub column: String,
    /// Its Arrow type.
    pub r#type: String,
    /// Whether it may be null.
    pub nullable: bool,
    /// What it means.
    pub meaning: String,
}

/// Key of a column's meaning among the metadata of its field.
pub(super) const MEANING: &str = "description";

/// The lines of a doc comment as one text.
pub(super) fn text(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// A column's field, with its meaning as metadata.
pub(super) fn field<T: Cell>(name: &str, meaning: &[&str]) -> Field {
    Field::new(name, T::data_type(), T::NULLABLE).with_metadata(HashMap::from([(MEANING.to_owned(), text(meaning))]))
}

/// What a table is.
pub(super) fn description<T: Table>() -> TableDescription {
    let column = |field: &Field| ColumnDescription {
        column: field.name().clone(),
        r#type: field.data_type().to_string(),
        nullable: field.is_nullable(),
        meaning: field.metadata().get(MEANING).cloned().unwrap_or_default(),
    };
    TableDescription { table: T::NAME, row: T::row(), columns: T::fields().iter().map(column).collect() }
}

/// Something that is done with the rows of every table.
pub(super) trait EachTable {
    /// Does it.
    fn table<T: Table>(&mut self, rows: &[T]) -> crate::Result<()>;
}

/// `Row = table { column: type, ... }`, with doc comments, declares row structs and their [`Table`]s; and, of all of them, `TABLES`, `Tables` and
/// `descriptions`. This is all that a table needs: files, readers and documentation follow from it.
macro_rules! tables {
    ($( $(#[doc = $meta:literal])* $row:ident = $name:ident { $( $(#[doc = $doc:literal])* $column:ident: $type:ty, )* } )*) => {
        $(
            $(#[doc = $meta])*
            #[derive(Debug, Clone, PartialEq)]
            pub struct $row { $( $(#[doc = $doc])* pub $column: $type, )* }

            impl Table for $row {
                const NAME: &'static str = stringify!($name);

                fn row() -> String {
                    text(&[$($meta),*])
                }

                fn fields() -> Vec<Field> {
                    vec![$( field::<$type>(stringify!($column), &[$($doc),*]) ),*]
                }

                fn columns(rows: &[Self]) -> Vec<ArrayRef> {
                    vec![$( <$type as Cell>::array(rows.iter().map(|row| row.$column.clone())) ),*]
                }

                fn rows(batch: &RecordBatch) -> Result<Vec<Self>, String> {
                    $( let mut $column = column::<$type>(batch, stringify!($column))?; )*
                    Ok(std::iter::from_fn(|| Some($row { $( $column: $column.next()? ),* })).collect())
                }
            }
        )*

        /// Names of all tables.
        pub const TABLES: &[&str] = &[$( stringify!($name) ),*];

        /// Rows of several tables that are written together: of one group, or at the end of a run.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Tables {
            $( #[doc = concat!("Table `", stringify!($name), "`.")] pub $name: Vec<$row>, )*
        }

        impl Tables {
            /// Does something with the rows of every table.
            pub(super) fn each(&self, work: &mut impl EachTable) -> crate::Result<()> {
                $( work.table(&self.$name)?; )*
                Ok(())
            }
        }

        /// What all tables are.
        pub fn descriptions() -> Vec<TableDescription> {
            vec![$( description::<$row>() ),*]
        }
    };
}
