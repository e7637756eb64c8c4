//! The adapter on modules in plain Burn style: the streamed module gives what the loaded one gives, on every backend.

mod attach;
mod layout;
