use super::globals::Global;
use super::tape::Span;

/// What a pickle's machine computes with: small, and never nested, so that nothing here recurses.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    /// `None`, floats and whatever else tensors do not need.
    Other,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, little-endian.
    LongInt(Span),
    Text(Span),
    Global(Global),
    /// The number of an object.
    Object(u32),
}

/// What values refer to. References may form cycles.
#[derive(Debug)]
pub(super) enum Object {
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Storage(Storage),
    Tensor(Box<Tensor>),
}

/// A storage, as a pickle names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage {
    /// The name of its kind, such as `FloatStorage`.
    pub(super) kind: Span,
    /// Its key among the storages of the file.
    pub(super) key: Span,
    pub(super) elements: i64,
}

/// A view of a storage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor {
    pub(super) storage: Storage,
    /// The first element's place in the storage.
    pub(super) first: i64,
    pub(super) shape: Value,
    pub(super) strides: Value,
}

/// More dimensions than any tensor has.
pub(super) const MOST_DIMENSIONS: usize = 64;

/// The objects of one or several pickles, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Objects(Vec<Object>);

impl Objects {
    pub(super) fn add(&mut self, object: Object) -> Value {
        self.0.push(object);
        // Every object takes an opcode, of which there are fewer.
        Value::Object(self.0.len() as u32 - 1)
    }

    pub(super) fn get(&self, value: Value) -> Option<&Object> {
        if let Value::Object(number) = value { self.0.get(number as usize) } else { None }
    }

    pub(super) fn get_mut(&mut self, value: Value) -> Option<&mut Object> {
        if let Value::Object(number) = value { self.0.get_mut(number as usize) } else { None }
    }

    pub(super) fn tuple(&self, value: Value) -> Option<&[Value]> {
        if let Object::Tuple(values) = self.get(value)? { Some(values) } else { None }
    }

    pub(super) fn list(&self, value: Value) -> Option<&[Value]> {
        if let Object::List(values) = self.get(value)? { Some(values) } else { None }
    }

    pub(super) fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        if let Object::Dict(entries) = self.get(value)? { Some(entries) } else { None }
    }

    pub(super) fn storage(&self, value: Value) -> Option<Storage> {
        if let Object::Storage(storage) = self.get(value)? { Some(*storage) } else { None }
    }

    pub(super) fn tensor(&self, value: Value) -> Option<Tensor> {
        if let Object::Tensor(tensor) = self.get(value)? { Some(**tensor) } else { None }
    }

    /// The integers of a tuple that is a shape. A longer one than any tensor has is none: thousands of tensors may name
    /// the same, and each would copy it.
    pub(super) fn integers(&self, value: Value) -> Option<Vec<i64>> {
        let int = |value: &Value| if let Value::Int(number) = *value { Some(number) } else { None };
        self.tuple(value).filter(|tuple| tuple.len() <= MOST_DIMENSIONS)?.iter().map(int).collect()
    }

    /// All storages that were named.
    pub(super) fn storages(&self) -> impl Iterator<Item = Storage> {
        self.0.iter().filter_map(|object| if let Object::Storage(storage) = object { Some(*storage) } else { None })
    }
}
