//! Values that are one number, or a list of them.

use std::fmt;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

/// One number for all channels, or a list with one for each. Written back as it was read.
#[derive(Debug, Clone, PartialEq)]
pub enum Each {
    /// The same everywhere.
    Same(f64),
    /// One for each.
    List(Vec<f64>),
}

impl Each {
    /// The numbers that were written.
    pub fn numbers(&self) -> &[f64] {
        match self {
            Self::Same(number) => std::slice::from_ref(number),
            Self::List(numbers) => numbers,
        }
    }

    /// One number for each of `count`; `None` if a list has another length.
    pub fn of(&self, count: usize) -> Option<Vec<f64>> {
        match self {
            Self::Same(number) => Some(vec![*number; count]),
            Self::List(numbers) => (numbers.len() == count).then(|| numbers.clone()),
        }
    }
}

impl From<f64> for Each {
    fn from(number: f64) -> Self {
        Self::Same(number)
    }
}

impl fmt::Display for Each {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same(number) => number.fmt(f),
            Self::List(numbers) => write!(f, "{numbers:?}"),
        }
    }
}

impl Serialize for Each {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Same(number) => number.serialize(serializer),
            Self::List(numbers) => numbers.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Each {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Each;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a list of numbers")
            }

            fn visit_f64<E>(self, number: f64) -> Result<Each, E> {
                Ok(Each::Same(number))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Each, E> {
                Ok(Each::Same(number as f64))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Each, E> {
                Ok(Each::Same(number as f64))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Each, A::Error> {
                let mut numbers = Vec::new();
                while let Some(number) = items.next_element()? {
                    numbers.push(number);
                }
                Ok(Each::List(numbers))
            }
        }
        deserializer.deserialize_any(Read)
    }
}
