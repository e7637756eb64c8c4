use std::collections::HashMap;
use std::io::Read;

use super::SAVE_AGAIN;
use super::globals::Global;
use super::objects::{Object, Objects, Storage, Tensor, Value};
use super::tape::{Span, Tape};
use crate::format::FormatError;
use crate::format::input::Input;

/// The opcode with which every pickle of protocol 2 or newer begins.
pub(super) const PROTOCOL: u8 = 0x80;

/// The newest protocol that there is.
const NEWEST_PROTOCOL: u8 = 5;

/// Enough for a hundred thousand tensors. An opcode adds at most one value to the stack, one object or one entry to the
/// memo, so that this bounds the memory, too: to less than 100 bytes for each.
const MOST_OPCODES: u32 = 1 << 22;

/// A machine for pickles that knows dictionaries of tensors and executes nothing.
///
/// Opcodes are those of Python's module `pickletools`. What it cannot do: import anything, call what is not in
/// [`Global`], make objects of classes, set attributes.
pub(super) struct Unpickler<R> {
    tape: Tape<R>,
    objects: Objects,
    stack: Vec<Value>,
    /// The heights of the stack at which marks stand.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    opcodes: u32,
}

impl<R: Read> Unpickler<R> {
    pub(super) fn new(input: Input<R>) -> Self {
        let tape = Tape::new(input);
        let (stack, marks, memo) = (Vec::new(), Vec::new(), HashMap::new());
        Self { tape, objects: Objects::default(), stack, marks, memo, opcodes: 0 }
    }

    /// Gives back the input, after the last pickle, with what was read and made.
    pub(super) fn finish(self) -> (Input<R>, Vec<u8>, Objects) {
        let (input, bytes) = self.tape.finish();
        (input, bytes, self.objects)
    }

    pub(super) fn objects(&self) -> &Objects {
        &self.objects
    }

    pub(super) fn bytes(&self, span: Span) -> &[u8] {
        self.tape.bytes(span)
    }

    /// Reads one pickle.
    ///
    /// # Errors
    /// [`FormatError`] if it is cut, or breaks a rule, or asks for what is not known.
    pub(super) fn load(&mut self) -> Result<Value, FormatError> {
        self.stack.clear();
        self.marks.clear();
        self.memo.clear();
        let (first, protocol) = (self.byte()?, self.byte()?);
        if first != PROTOCOL || !(2..=NEWEST_PROTOCOL).contains(&protocol) {
            return Err(FormatError::unsupported("it has a pickle of an unknown protocol", SAVE_AGAIN));
        }
        loop {
            let opcode = self.byte()?;
            self.opcodes += 1;
            if self.opcodes > MOST_OPCODES {
                return Err(FormatError::unsupported(
                    format!("its pickle has more than {MOST_OPCODES} opcodes"),
                    "save it in several shards, or convert it to safetensors",
                ));
            }
            if opcode == b'.' {
                return self.pop();
            }
            self.execute(opcode)?;
        }
    }

    fn execute(&mut self, opcode: u8) -> Result<(), FormatError> {
        const WHAT: &str = "the pickle";
        match opcode {
            PROTOCOL => self.byte().map(drop),
            // A frame announces the length of what follows, which nobody needs to know.
            0x95 => self.tape.array::<8>(WHAT).map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' if self.marks.last() == Some(&self.stack.len()) => {
                self.marks.pop();
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'1' => self.pop_mark().map(drop),
            b'2' => self.top().and_then(|top| self.push(top)),

            b'N' => self.push(Value::Other),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => {
                let number = i32::from_le_bytes(self.tape.array(WHAT)?);
                self.push(Value::Int(number.into()))
            }
            b'K' => self.byte().and_then(|number| self.push(Value::Int(number.into()))),
            b'M' => {
                let number = u16::from_le_bytes(self.tape.array(WHAT)?);
                self.push(Value::Int(number.into()))
            }
            0x8A => self.byte().and_then(|len| self.long(len.into())),
            0x8B => self.u32().and_then(|len| self.long(len.into())),
            b'G' => {
                self.tape.array::<8>(WHAT)?;
                self.push(Value::Other)
            }

            // Texts; those of Python 2 have no encoding, but names are ASCII.
            0x8C | b'U' => self.byte().and_then(|len| self.text(len.into())),
            b'X' | b'T' => self.u32().and_then(|len| self.text(len.into())),
            0x8D => {
                let len = u64::from_le_bytes(self.tape.array(WHAT)?);
                self.text(len)
            }
            b'C' => self.byte().and_then(|len| self.skip(len.into())),
            b'B' => self.u32().and_then(|len| self.skip(len.into())),
            0x8E | 0x96 => {
                let len = u64::from_le_bytes(self.tape.array(WHAT)?);
                self.skip(len)
            }

            b')' => self.push_object(Object::Tuple(Vec::new())),
            0x85..=0x87 => {
                let values = self.pop_several(usize::from(opcode - 0x84))?;
                self.push_object(Object::Tuple(values))
            }
            b't' => self.pop_mark().and_then(|values| self.push_object(Object::Tuple(values))),
            b']' => self.push_object(Object::List(Vec::new())),
            b'l' => self.pop_mark().and_then(|values| self.push_object(Object::List(values))),
            b'a' => self.pop().and_then(|value| self.append(vec![value])),
            b'e' => self.pop_mark().and_then(|values| self.append(values)),
            b'}' => self.push_object(Object::Dict(Vec::new())),
            b'd' => {
                let values = self.pop_mark()?;
                self.push_object(Object::Dict(Vec::new()))?;
                self.set(&values)
            }
            b's' => {
                let values = self.pop_several(2)?;
                self.set(&values)
            }
            b'u' => self.pop_mark().and_then(|values| self.set(&values)),

            b'q' => self.byte().and_then(|place| self.remember(place.into())),
            b'r' => self.u32().and_then(|place| self.remember(place)),
            // Entries are fewer than opcodes.
            0x94 => self.remember(self.memo.len() as u32),
            b'h' => self.byte().and_then(|place| self.recall(place.into())),
            b'j' => self.u32().and_then(|place| self.recall(place)),

            b'c' => {
                let (module, name) = (self.tape.line(WHAT)?, self.tape.line(WHAT)?);
                self.global(module, name)
            }
            0x93 => {
                let [module, name] = self.pop_several(2)?[..] else { return Err(self.invalid("too few values")) };
                match (module, name) {
                    (Value::Text(module), Value::Text(name)) => self.global(module, name),
                    _ => Err(self.invalid("what it asks for has no name")),
                }
            }
            b'Q' => self.persistent(),
            b'R' => self.call(),
            b'b' => self.build(),
            // An instance of a class that is named here.
            b'i' => {
                let (module, name) = (self.tape.line(WHAT)?, self.tape.line(WHAT)?);
                Err(self.unknown(module, name))
            }
            b'o' => Err(instance("OBJ")),
            0x81 => Err(instance("NEWOBJ")),
            0x92 => Err(instance("NEWOBJ_EX")),
            0x82..=0x84 => Err(instance("EXT")),
            _ => {
                let at = self.tape.position() - 1;
                Err(FormatError::unsupported(
                    format!("its pickle has the opcode {opcode:#04x} at byte {at}"),
                    SAVE_AGAIN,
                ))
            }
        }
    }

    fn byte(&mut self) -> Result<u8, FormatError> {
        self.tape.array("the pickle").map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, FormatError> {
        self.tape.array("the pickle").map(u32::from_le_bytes)
    }

    fn push(&mut self, value: Value) -> Result<(), FormatError> {
        self.stack.push(value);
        Ok(())
    }

    fn push_object(&mut self, object: Object) -> Result<(), FormatError> {
        let value = self.objects.add(object);
        self.push(value)
    }

    /// Where the last mark stands: nothing below it may be taken.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Value, FormatError> {
        self.stack[self.floor()..].last().copied().ok_or_else(|| self.invalid("too few values"))
    }

    fn pop(&mut self) -> Result<Value, FormatError> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_several(&mut self, count: usize) -> Result<Vec<Value>, FormatError> {
        match self.stack.len().checked_sub(count).filter(|&start| start >= self.floor()) {
            Some(start) => Ok(self.stack.drain(start..).collect()),
            None => Err(self.invalid("too few values")),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>, FormatError> {
        match self.marks.pop() {
            Some(start) => Ok(self.stack.drain(start..).collect()),
            None => Err(self.invalid("no mark")),
        }
    }

    fn long(&mut self, len: u64) -> Result<(), FormatError> {
        let span = self.tape.take("an integer", len)?;
        let bytes = self.tape.bytes(span);
        let value = if bytes.len() <= 8 {
            let sign = if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xFF } else { 0 };
            let mut whole = [sign; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            Value::Int(i64::from_le_bytes(whole))
        } else {
            Value::LongInt(span)
        };
        self.push(value)
    }

    fn text(&mut self, len: u64) -> Result<(), FormatError> {
        let text = self.tape.take("a text", len)?;
        self.push(Value::Text(text))
    }

    fn skip(&mut self, len: u64) -> Result<(), FormatError> {
        self.tape.take("bytes", len)?;
        self.push(Value::Other)
    }

    fn append(&mut self, values: Vec<Value>) -> Result<(), FormatError> {
        match self.top().map(|top| self.objects.get_mut(top))? {
            Some(Object::List(list)) => list.extend(values),
            _ => return Err(self.invalid("a value is appended to what is no list")),
        }
        Ok(())
    }

    fn set(&mut self, values: &[Value]) -> Result<(), FormatError> {
        let (pairs, rest) = values.as_chunks::<2>();
        match self.top().map(|top| self.objects.get_mut(top))? {
            Some(Object::Dict(entries)) if rest.is_empty() => {
                entries.extend(pairs.iter().map(|&[key, value]| (key, value)))
            }
            _ => return Err(self.invalid("an item is set in what is no dictionary")),
        }
        Ok(())
    }

    fn remember(&mut self, place: u32) -> Result<(), FormatError> {
        let top = self.top()?;
        self.memo.insert(place, top);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<(), FormatError> {
        match self.memo.get(&place) {
            Some(&value) => self.push(value),
            None => Err(self.invalid("what is recalled was not remembered")),
        }
    }

    fn global(&mut self, module: Span, name: Span) -> Result<(), FormatError> {
        match Global::find(self.tape.bytes(module), self.tape.bytes(name), name) {
            Some(global) => self.push(Value::Global(global)),
            None => Err(self.unknown(module, name)),
        }
    }

    /// A storage by its persistent id: `("storage", kind, key, device, elements)`, and in old files a view of another.
    fn persistent(&mut self) -> Result<(), FormatError> {
        let id = self.pop()?;
        let id = self.objects.tuple(id).unwrap_or_default();
        let (
            Some(&[Value::Text(what), Value::Global(Global::Storage(kind)), Value::Text(key), _, Value::Int(elements)]),
            view,
        ) = (id.first_chunk(), &id[id.len().min(5)..])
        else {
            return Err(self.invalid("a persistent id that names no storage"));
        };
        if self.tape.bytes(what) != b"storage" || elements < 0 {
            return Err(self.invalid("a persistent id that names no storage"));
        }
        match view {
            [] | [Value::Other] => self.push_object(Object::Storage(Storage { kind, key, elements })),
            _ => Err(FormatError::unsupported("it has storages that are views of others", SAVE_AGAIN)),
        }
    }

    /// Does what the few known globals do when they are called.
    fn call(&mut self) -> Result<(), FormatError> {
        let arguments = self.pop()?;
        let called = self.pop()?;
        let arguments = self.objects.tuple(arguments).ok_or_else(|| self.invalid("a call without arguments"))?;
        let Value::Global(called) = called else { return Err(self.invalid("what is called is no global")) };
        match (called, arguments) {
            (Global::OrderedDict, []) => self.push_object(Object::Dict(Vec::new())),
            (Global::RebuildTensor, &[storage, Value::Int(first), shape, strides, ..]) => {
                let Some(storage) = self.objects.storage(storage) else {
                    return Err(self.invalid("a tensor without a storage"));
                };
                self.push_object(Object::Tensor(Box::new(Tensor { storage, first, shape, strides })))
            }
            (Global::RebuildParameter, &[tensor, ..]) if self.objects.tensor(tensor).is_some() => self.push(tensor),
            (Global::Size, &[shape]) if self.objects.tuple(shape).is_some() => self.push(shape),
            _ => Err(self.invalid(&format!("{called:?} is called with other arguments than PyTorch gives"))),
        }
    }

    /// Attributes of a dictionary, in which PyTorch keeps the versions of modules; nothing else may have any.
    fn build(&mut self) -> Result<(), FormatError> {
        self.pop()?;
        let top = self.top()?;
        match self.objects.dict(top) {
            Some(_) => Ok(()),
            None => Err(FormatError::unsupported("its pickle sets attributes of what is no dictionary", SAVE_AGAIN)),
        }
    }

    fn unknown(&self, module: Span, name: Span) -> FormatError {
        const LONGEST: usize = 100;
        let [module, name] = [module, name].map(|span| String::from_utf8_lossy(self.tape.bytes(span)));
        let name: String = format!("{module}.{name}").escape_debug().take(LONGEST).collect();
        FormatError::UnknownGlobal { name }
    }

    fn invalid(&self, reason: &str) -> FormatError {
        FormatError::header(format!("its pickle is wrong before byte {}: {reason}", self.tape.position()))
    }
}

fn instance(opcode: &str) -> FormatError {
    FormatError::unsupported(
        format!("its pickle makes an instance of a class (opcode {opcode}), which may run code; nothing was run"),
        SAVE_AGAIN,
    )
}
