//! Python's pickle, as far as `torch.save` uses it: values are rebuilt, nothing is ever executed.
//!
//! burn-store has a reader as well; it takes no notice of strides (a transposed tensor comes out in the wrong order) and gives
//! zeros for a storage that is missing or too short (0.21), where here both must be right or refused.
//!
//! A pickle may nest as deep as it is long, and refer to what it has made as often as it likes. So a value is small: what holds
//! others is a place in one list of lists, which is shared by copying a number and freed without recursion. Memory grows with the
//! number of instructions, and that has a limit.

use std::collections::HashMap;
use std::rc::Rc;

/// More instructions than the table of any network's tensors has: some forty make a tensor.
const MOST_INSTRUCTIONS: usize = 5_000_000;
/// PyTorch's limit.
const MOST_DIMENSIONS: usize = 64;

/// A value; what holds others is shared as in Python.
#[derive(Debug, Clone)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Text(Rc<str>),
    Tuple(Items),
    List(Items),
    /// Keys and values in turn.
    Table(Items),
    /// A class or function.
    Global(Rc<str>),
    /// What stands for data outside of the pickle.
    Persistent(Items),
    /// What `call` made of a function's arguments.
    Tensor(Rc<TensorPlace>),
    /// A function or class applied to something, which nobody needs.
    Opaque,
}

/// Where the values lie that a value holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Items(usize);

/// Where a tensor's entries lie.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TensorPlace {
    /// Class of the storage, like "FloatStorage".
    pub class: String,
    /// Key of the storage.
    pub storage: String,
    /// In entries, as everything here.
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

type Result<T> = std::result::Result<T, String>;

/// The value of a pickle.
pub(super) struct Pickle {
    pub root: Value,
    /// Class of every storage that it refers to, like "FloatStorage", by its key.
    pub storages: HashMap<String, String>,
    lists: Vec<Vec<Value>>,
}

impl Pickle {
    /// The keys and values of a table; none of what is no table.
    pub fn entries(&self, value: &Value) -> impl Iterator<Item = (&Value, &Value)> {
        let items = if let Value::Table(items) = value { self.lists[items.0].as_slice() } else { &[] };
        items.as_chunks::<2>().0.iter().map(|[key, value]| (key, value))
    }

    /// The values of a list; none of what is no list.
    pub fn items(&self, value: &Value) -> impl Iterator<Item = &Value> {
        let items = if let Value::List(items) = value { self.lists[items.0].as_slice() } else { &[] };
        items.iter()
    }
}

/// Rebuilds the value of a pickle.
pub(super) fn read(bytes: &[u8]) -> Result<Pickle> {
    read_first(bytes).map(|(pickle, _)| pickle)
}

/// The pickle at the front, and its number of bytes.
pub(super) fn read_first(bytes: &[u8]) -> Result<(Pickle, usize)> {
    let (stack, marks, memo, lists) = (Vec::new(), Vec::new(), HashMap::new(), Vec::new());
    let mut machine = Machine { bytes, at: 0, stack, marks, memo, lists, storages: HashMap::new() };
    for _ in 0..MOST_INSTRUCTIONS {
        let at = machine.at;
        let code = machine.byte()?;
        if code == b'.' {
            let (root, storages) = (machine.pop()?, machine.storages);
            return Ok((Pickle { root, storages, lists: machine.lists }, machine.at));
        }
        machine.step(code).map_err(|problem| format!("byte {at} of the pickle: {problem}"))?;
    }
    Err(format!("its pickle has more than {MOST_INSTRUCTIONS} instructions, too many for a table of tensors"))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<usize, Value>,
    lists: Vec<Vec<Value>>,
    storages: HashMap<String, String>,
}

impl Machine<'_> {
    /// One instruction. The names are those of Python's pickletools.
    fn step(&mut self, code: u8) -> Result<()> {
        if let Some(value) = self.plain(code)? {
            self.stack.push(value);
            return Ok(());
        }
        match code {
            0x80 => drop(self.take(1)?),               // PROTO
            0x95 => drop(self.take(8)?),               // FRAME
            b'(' => self.marks.push(self.stack.len()), // MARK
            b'0' | b'b' => drop(self.pop()?),          // POP, BUILD: attributes, which no table of tensors needs
            b'a' => self.append_last()?,               // APPEND
            b'e' | 0x90 => self.append_marked()?,      // APPENDS, ADDITEMS
            b's' => self.set_last()?,                  // SETITEM
            b'u' => self.set_marked()?,                // SETITEMS
            b'q' => self.memorise(1)?,                 // BINPUT
            b'r' => self.memorise(4)?,                 // LONG_BINPUT
            0x94 => self.put(self.memo.len())?,        // MEMOIZE
            other => return Err(format!("unknown instruction {other:#04x}")),
        }
        Ok(())
    }

    /// The value that an instruction puts on the stack; `None` for one that does something else.
    fn plain(&mut self, code: u8) -> Result<Option<Value>> {
        Ok(Some(match code {
            b'N' => Value::None,                                   // NONE
            0x88 | 0x89 => Value::Bool(code == 0x88),              // NEWTRUE, NEWFALSE
            b'K' => Value::Int(self.number(1)?),                   // BININT1
            b'M' => Value::Int(self.number(2)?),                   // BININT2
            b'J' => Value::Int(i64::from(self.number(4)? as i32)), // BININT
            0x8a => self.long()?,                                  // LONG1
            b'G' => self.skip(8, Value::Float)?,                   // BINFLOAT
            b'X' | b'T' => self.text(4)?,                          // BINUNICODE, BINSTRING
            0x8c | b'U' => self.text(1)?,                          // SHORT_BINUNICODE, SHORT_BINSTRING
            0x8d => self.text(8)?,                                 // BINUNICODE8
            b'C' => self.opaque(1)?,                               // SHORT_BINBYTES
            b'B' => self.opaque(4)?,                               // BINBYTES
            b')' => Value::Tuple(self.list(Vec::new())),           // EMPTY_TUPLE
            0x85..=0x87 => self.tuple(code - 0x84)?,               // TUPLE1 to TUPLE3
            b't' => self.marked_tuple()?,                          // TUPLE
            b']' | 0x8f => Value::List(self.list(Vec::new())),     // EMPTY_LIST, EMPTY_SET
            b'}' => Value::Table(self.list(Vec::new())),           // EMPTY_DICT
            b'c' => global(&self.line()?, &self.line()?),          // GLOBAL
            0x93 => self.stack_global()?,                          // STACK_GLOBAL
            b'h' => self.recall(1)?,                               // BINGET
            b'j' => self.recall(4)?,                               // LONG_BINGET
            b'Q' => self.persistent()?,                            // BINPERSID
            b'R' | 0x81 => self.reduce()?,                         // REDUCE, NEWOBJ
            _ => return Ok(None),
        }))
    }

    fn list(&mut self, items: Vec<Value>) -> Items {
        self.lists.push(items);
        Items(self.lists.len() - 1)
    }

    fn tuple(&mut self, len: u8) -> Result<Value> {
        let items = self.last(len)?;
        Ok(Value::Tuple(self.list(items)))
    }

    fn marked_tuple(&mut self) -> Result<Value> {
        let items = self.marked()?;
        Ok(Value::Tuple(self.list(items)))
    }

    fn take(&mut self, len: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len()).ok_or("it ends too early")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn pop(&mut self) -> Result<Value> {
        self.stack.pop().ok_or_else(|| "nothing on the stack".to_string())
    }

    /// Little-endian, without a sign, of at most 8 bytes.
    fn number(&mut self, len: usize) -> Result<i64> {
        let mut whole = [0; 8];
        whole[..len].copy_from_slice(self.take(len)?);
        Ok(i64::from_le_bytes(whole))
    }

    fn skip(&mut self, len: usize, value: Value) -> Result<Value> {
        self.take(len)?;
        Ok(value)
    }

    /// Two's complement of any length; one of more than 8 bytes is nothing that is needed.
    fn long(&mut self) -> Result<Value> {
        let len = usize::from(self.byte()?);
        let bytes = self.take(len)?;
        let fill = if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 };
        let mut whole = [fill; 8];
        whole[..len.min(8)].copy_from_slice(&bytes[..len.min(8)]);
        Ok(if len > 8 { Value::Opaque } else { Value::Int(i64::from_le_bytes(whole)) })
    }

    fn length(&mut self, size: usize) -> Result<usize> {
        usize::try_from(self.number(size)?).map_err(|_| "a length that is too large".to_string())
    }

    fn text(&mut self, size: usize) -> Result<Value> {
        let len = self.length(size)?;
        Ok(Value::Text(String::from_utf8_lossy(self.take(len)?).into()))
    }

    fn opaque(&mut self, size: usize) -> Result<Value> {
        let len = self.length(size)?;
        self.skip(len, Value::Opaque)
    }

    fn line(&mut self) -> Result<String> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|byte| *byte == b'\n').ok_or("it ends too early")?;
        self.at += len + 1;
        Ok(String::from_utf8_lossy(&rest[..len]).into_owned())
    }

    /// Takes so many values from the top.
    fn last(&mut self, len: u8) -> Result<Vec<Value>> {
        let start = self.stack.len().checked_sub(usize::from(len)).ok_or("nothing on the stack")?;
        Ok(self.stack.split_off(start))
    }

    /// Takes all values down to the mark.
    fn marked(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.stack.len()).ok_or("no mark on the stack")?;
        Ok(self.stack.split_off(mark))
    }

    fn append_last(&mut self) -> Result<()> {
        let items = self.last(1)?;
        self.append(items)
    }

    fn append_marked(&mut self) -> Result<()> {
        let items = self.marked()?;
        self.append(items)
    }

    fn append(&mut self, items: Vec<Value>) -> Result<()> {
        match self.stack.last() {
            Some(Value::List(list)) => self.lists[list.0].extend(items),
            Some(Value::Opaque) => {}
            _ => return Err("items for what is no list".into()),
        }
        Ok(())
    }

    fn set_last(&mut self) -> Result<()> {
        let items = self.last(2)?;
        self.set(items)
    }

    fn set_marked(&mut self) -> Result<()> {
        let items = self.marked()?;
        self.set(items)
    }

    fn set(&mut self, items: Vec<Value>) -> Result<()> {
        match self.stack.last() {
            Some(Value::Table(table)) if items.len().is_multiple_of(2) => self.lists[table.0].extend(items),
            Some(Value::Opaque) => {}
            _ => return Err("keys for what is no table".into()),
        }
        Ok(())
    }

    fn stack_global(&mut self) -> Result<Value> {
        match (self.pop()?, self.pop()?) {
            (Value::Text(name), Value::Text(module)) => Ok(global(&module, &name)),
            _ => Err("a class without a name".into()),
        }
    }

    fn memorise(&mut self, size: usize) -> Result<()> {
        let place = self.length(size)?;
        self.put(place)
    }

    fn put(&mut self, place: usize) -> Result<()> {
        let value = self.stack.last().cloned().ok_or("nothing on the stack")?;
        self.memo.insert(place, value);
        Ok(())
    }

    fn recall(&mut self, size: usize) -> Result<Value> {
        let place = self.length(size)?;
        let value = self.memo.get(&place).cloned();
        value.ok_or_else(|| format!("nothing was put at the place {place}"))
    }

    fn persistent(&mut self) -> Result<Value> {
        match self.pop()? {
            Value::Tuple(items) => {
                if let [_, Value::Global(class), Value::Text(key), ..] = self.lists[items.0].as_slice() {
                    self.storages.insert(key.to_string(), class_of(class));
                }
                Ok(Value::Persistent(items))
            }
            _ => Err("outside data that is no tuple".into()),
        }
    }

    /// The few functions that tensors are made with; all others are opaque.
    fn reduce(&mut self) -> Result<Value> {
        let (Value::Tuple(mut arguments), Value::Global(mut name)) = (self.pop()?, self.pop()?) else {
            return Ok(Value::Opaque);
        };
        loop {
            let given = self.lists[arguments.0].as_slice();
            return match (&*name, given) {
                ("collections.OrderedDict", _) => Ok(Value::Table(self.list(Vec::new()))),
                ("torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor", _) => self.tensor(given),
                ("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", [tensor, ..]) => {
                    Ok(tensor.clone())
                }
                // (function, type, arguments, state): what the function makes of the arguments
                ("torch._tensor._rebuild_from_type_v2", [Value::Global(inner), _, Value::Tuple(inside), ..]) => {
                    (name, arguments) = (inner.clone(), *inside);
                    continue;
                }
                _ => Ok(Value::Opaque),
            };
        }
    }

    /// `_rebuild_tensor_v2(storage, offset, size, stride, ...)`, `storage` = ("storage", class, key, device, entries).
    fn tensor(&self, arguments: &[Value]) -> Result<Value> {
        let problem = || "a tensor that is not made as PyTorch makes them".to_string();
        let [Value::Persistent(storage), Value::Int(offset), Value::Tuple(shape), Value::Tuple(strides), ..] =
            arguments
        else {
            return Err(problem());
        };
        let [_, Value::Global(class), Value::Text(key), ..] = self.lists[storage.0].as_slice() else {
            return Err(problem());
        };
        let sizes = |items: &Items| -> Result<Vec<usize>> {
            let size = |value: &Value| match value {
                Value::Int(size) => usize::try_from(*size).map_err(|_| problem()),
                _ => Err(problem()),
            };
            self.lists[items.0].iter().take(MOST_DIMENSIONS + 1).map(size).collect()
        };
        let (shape, strides) = (sizes(shape)?, sizes(strides)?);
        if shape.len() != strides.len() || shape.len() > MOST_DIMENSIONS {
            return Err(problem());
        }
        Ok(Value::Tensor(Rc::new(TensorPlace {
            class: class_of(class),
            storage: key.to_string(),
            offset: usize::try_from(*offset).map_err(|_| problem())?,
            shape,
            strides,
        })))
    }
}

/// `FloatStorage` of `torch.FloatStorage`.
fn class_of(global: &str) -> String {
    global.rsplit('.').next().unwrap_or_default().into()
}

fn global(module: &str, name: &str) -> Value {
    Value::Global(format!("{module}.{name}").into())
}
