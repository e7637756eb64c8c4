//! `smoke trace`

mod record;
mod replay;
mod show;

pub(crate) use record::record;
pub(crate) use replay::replay;
pub(crate) use show::show;
