//! The cache and its policies against rules, references and known answers.

mod budget;
mod known_answers;
mod optimum;
mod policies;
