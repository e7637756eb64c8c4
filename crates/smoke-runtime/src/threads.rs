use crate::error::RuntimeError;

/// Sets how many threads compute, for the whole process. Without it, as many as the machine has cores.
///
/// # Errors
/// [`RuntimeError::Threads`] if they were set or used before.
pub fn set_threads(threads: usize) -> Result<(), RuntimeError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.map_err(|error| RuntimeError::Threads { threads, reason: error.to_string() })
}
