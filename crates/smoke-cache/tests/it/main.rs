//! The cache and its policies against rules, references and known answers.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in what tests share, too")]

mod budget;
mod hand_worked;
mod known_answers;
mod optimum;
mod policies;
