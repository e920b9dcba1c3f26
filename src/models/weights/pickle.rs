//! Python's pickle, as far as `torch.save` uses it: values are rebuilt, nothing is ever executed.
//!
//! burn-store has a reader as well; it takes no notice of strides (a transposed tensor comes out in the wrong order) and gives
//! zeros for a storage that is missing or too short (0.21), where here both must be right or refused.

use std::cell::RefCell;
use std::rc::Rc;

/// A value; lists and tables are shared as in Python.
#[derive(Debug, Clone)]
pub(super) enum Value {
    None,
    Bool,
    Int(i64),
    Float,
    Text(String),
    Tuple(Vec<Value>),
    List(Rc<RefCell<Vec<Value>>>),
    Table(Rc<RefCell<Vec<(Value, Value)>>>),
    /// A class or function.
    Global(String),
    /// What stands for data outside of the pickle.
    Persistent(Vec<Value>),
    /// What `call` made of a function's arguments.
    Tensor(Rc<TensorPlace>),
    /// A function or class applied to something, which nobody needs.
    Opaque,
}

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

/// Rebuilds the value of a pickle.
pub(super) fn read(bytes: &[u8]) -> Result<Value> {
    let mut machine = Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: Vec::new() };
    loop {
        let at = machine.at;
        let code = machine.byte()?;
        if code == b'.' {
            return machine.pop();
        }
        machine.step(code).map_err(|problem| format!("byte {at} of the pickle: {problem}"))?;
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: Vec<Option<Value>>,
}

impl Machine<'_> {
    /// One instruction. The names are those of Python's pickletools.
    fn step(&mut self, code: u8) -> Result<()> {
        match code {
            0x80 => drop(self.take(1)?),                 // PROTO
            0x95 => drop(self.take(8)?),                 // FRAME
            b'(' => self.marks.push(self.stack.len()),   // MARK
            b'0' => drop(self.pop()?),                   // POP
            b'N' => self.stack.push(Value::None),        // NONE
            0x88 | 0x89 => self.stack.push(Value::Bool), // NEWTRUE, NEWFALSE
            b'K' => {
                let n = self.number(1)?;
                self.stack.push(Value::Int(n))
            } // BININT1
            b'M' => {
                let n = self.number(2)?;
                self.stack.push(Value::Int(n))
            } // BININT2
            b'J' => {
                let n = self.number(4)?;
                self.stack.push(Value::Int(i64::from(n as i32)))
            } // BININT
            0x8a => self.long()?,                        // LONG1
            b'G' => {
                self.take(8)?;
                self.stack.push(Value::Float)
            } // BINFLOAT
            b'X' | b'T' => self.text(4)?,                // BINUNICODE, BINSTRING
            0x8c | b'U' => self.text(1)?,                // SHORT_BINUNICODE, SHORT_BINSTRING
            0x8d => self.text(8)?,                       // BINUNICODE8
            b'C' => self.opaque(1)?,                     // SHORT_BINBYTES
            b'B' => self.opaque(4)?,                     // BINBYTES
            b')' => self.stack.push(Value::Tuple(Vec::new())), // EMPTY_TUPLE
            0x85..=0x87 => self.tuple(usize::from(code - 0x84))?, // TUPLE1 to TUPLE3
            b't' => {
                let items = self.to_mark()?;
                self.stack.push(Value::Tuple(items))
            } // TUPLE
            b']' | 0x8f => self.stack.push(Value::List(Rc::default())), // EMPTY_LIST, EMPTY_SET
            b'}' => self.stack.push(Value::Table(Rc::default())), // EMPTY_DICT
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?
            } // APPEND
            b'e' | 0x90 => {
                let items = self.to_mark()?;
                self.append(items)?
            } // APPENDS, ADDITEMS
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(vec![key, value])?
            } // SETITEM
            b'u' => {
                let items = self.to_mark()?;
                self.set(items)?
            } // SETITEMS
            b'c' => self.global()?,                      // GLOBAL
            0x93 => self.stack_global()?,                // STACK_GLOBAL
            b'q' => {
                let n = self.number(1)?;
                self.memorise(n)?
            } // BINPUT
            b'r' => {
                let n = self.number(4)?;
                self.memorise(n)?
            } // LONG_BINPUT
            0x94 => self.memorise(self.memo.len() as i64)?, // MEMOIZE
            b'h' => {
                let n = self.number(1)?;
                self.recall(n)?
            } // BINGET
            b'j' => {
                let n = self.number(4)?;
                self.recall(n)?
            } // LONG_BINGET
            b'Q' => self.persistent()?,                  // BINPERSID
            b'R' | 0x81 => self.reduce()?,               // REDUCE, NEWOBJ
            b'b' => drop(self.pop()?),                   // BUILD: attributes, which no table of tensors needs
            other => return Err(format!("unknown instruction {other:#04x}")),
        }
        Ok(())
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

    /// Two's complement of any length; one of more than 8 bytes is nothing that is needed.
    fn long(&mut self) -> Result<()> {
        let len = usize::from(self.byte()?);
        let bytes = self.take(len)?;
        let fill = if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 };
        let mut whole = [fill; 8];
        whole[..len.min(8)].copy_from_slice(&bytes[..len.min(8)]);
        let value = if len > 8 { Value::Opaque } else { Value::Int(i64::from_le_bytes(whole)) };
        self.stack.push(value);
        Ok(())
    }

    fn length(&mut self, size: usize) -> Result<usize> {
        usize::try_from(self.number(size)?).map_err(|_| "a length that is too large".to_string())
    }

    fn text(&mut self, size: usize) -> Result<()> {
        let len = self.length(size)?;
        let text = String::from_utf8_lossy(self.take(len)?).into_owned();
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn opaque(&mut self, size: usize) -> Result<()> {
        let len = self.length(size)?;
        self.take(len)?;
        self.stack.push(Value::Opaque);
        Ok(())
    }

    fn tuple(&mut self, len: usize) -> Result<()> {
        let start = self.stack.len().checked_sub(len).ok_or("nothing on the stack")?;
        let items = self.stack.split_off(start);
        self.stack.push(Value::Tuple(items));
        Ok(())
    }

    fn to_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.stack.len()).ok_or("no mark on the stack")?;
        Ok(self.stack.split_off(mark))
    }

    fn append(&mut self, items: Vec<Value>) -> Result<()> {
        match self.stack.last() {
            Some(Value::List(list)) => list.borrow_mut().extend(items),
            Some(Value::Opaque) => {}
            other => return Err(format!("items for {other:?}")),
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<Value>) -> Result<()> {
        match self.stack.last() {
            Some(Value::Table(table)) => {
                let mut items = items.into_iter();
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    table.borrow_mut().push((key, value));
                }
            }
            Some(Value::Opaque) => {}
            other => return Err(format!("keys for {other:?}")),
        }
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|byte| *byte == b'\n').ok_or("it ends too early")?;
        self.at += len + 1;
        Ok(String::from_utf8_lossy(&rest[..len]).into_owned())
    }

    fn global(&mut self) -> Result<()> {
        let name = format!("{}.{}", self.line()?, self.line()?);
        self.stack.push(Value::Global(name));
        Ok(())
    }

    fn stack_global(&mut self) -> Result<()> {
        match (self.pop()?, self.pop()?) {
            (Value::Text(name), Value::Text(module)) => self.stack.push(Value::Global(format!("{module}.{name}"))),
            other => return Err(format!("a class named {other:?}")),
        }
        Ok(())
    }

    fn memorise(&mut self, number: i64) -> Result<()> {
        let number = usize::try_from(number).map_err(|_| "a negative place".to_string())?;
        let value = self.stack.last().cloned().ok_or("nothing on the stack")?;
        if number > self.memo.len() + self.bytes.len() {
            return Err(format!("the place {number} is beyond what so short a pickle can have"));
        }
        if self.memo.len() <= number {
            self.memo.resize(number + 1, None);
        }
        self.memo[number] = Some(value);
        Ok(())
    }

    fn recall(&mut self, number: i64) -> Result<()> {
        let value = usize::try_from(number).ok().and_then(|number| self.memo.get(number)?.clone());
        self.stack.push(value.ok_or_else(|| format!("nothing was put at the place {number}"))?);
        Ok(())
    }

    fn persistent(&mut self) -> Result<()> {
        let Value::Tuple(items) = self.pop()? else { return Err("outside data that is no tuple".into()) };
        self.stack.push(Value::Persistent(items));
        Ok(())
    }

    fn reduce(&mut self) -> Result<()> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let value = match (callable, arguments) {
            (Value::Global(name), Value::Tuple(arguments)) => call(&name, arguments)?,
            _ => Value::Opaque,
        };
        self.stack.push(value);
        Ok(())
    }
}

/// The few functions that tensors are made with; all others are opaque.
fn call(name: &str, mut arguments: Vec<Value>) -> Result<Value> {
    match name {
        "collections.OrderedDict" => Ok(Value::Table(Rc::default())),
        "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" => tensor(&arguments),
        "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" if !arguments.is_empty() => {
            Ok(arguments.swap_remove(0))
        }
        "torch._tensor._rebuild_from_type_v2" => match (arguments.first(), arguments.get(2)) {
            (Some(Value::Global(inner)), Some(Value::Tuple(inside))) => call(inner, inside.clone()),
            _ => Ok(Value::Opaque),
        },
        _ => Ok(Value::Opaque),
    }
}

/// `_rebuild_tensor_v2(storage, offset, size, stride, ...)`, `storage` = ("storage", class, key, device, entries).
fn tensor(arguments: &[Value]) -> Result<Value> {
    let problem = || "a tensor that is not made as PyTorch makes them".to_string();
    let [Value::Persistent(storage), Value::Int(offset), Value::Tuple(shape), Value::Tuple(strides), ..] = arguments
    else {
        return Err(problem());
    };
    let [_, Value::Global(class), Value::Text(key), ..] = storage.as_slice() else { return Err(problem()) };
    let sizes = |values: &[Value]| -> Result<Vec<usize>> {
        let size = |value: &Value| match value {
            Value::Int(size) => usize::try_from(*size).map_err(|_| problem()),
            _ => Err(problem()),
        };
        values.iter().map(size).collect()
    };
    let (shape, strides) = (sizes(shape)?, sizes(strides)?);
    if shape.len() != strides.len() {
        return Err(problem());
    }
    Ok(Value::Tensor(Rc::new(TensorPlace {
        class: class.rsplit('.').next().unwrap_or_default().into(),
        storage: key.clone(),
        offset: usize::try_from(*offset).map_err(|_| problem())?,
        shape,
        strides,
    })))
}
