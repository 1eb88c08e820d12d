//! One error type: a sentence that says what could not be done and why.

use std::fmt;

/// Why the machine cannot go on; printed once, on the console.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    /// A failure in plain words.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Turns a low-level error into a [`Failure`] that names the deed.
pub trait Context<T> {
    /// Reads as "cannot `deed`: `cause`".
    fn doing(self, deed: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn doing(self, deed: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|cause| Failure(format!("cannot {deed}: {cause}")))
    }
}
