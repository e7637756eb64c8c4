use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::{Deserialize, Serialize};

use super::python_json::tojson;
use super::strftime::strftime;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: as a rule `system`, `user` or `assistant`. Templates may know more.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message of any role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    /// Instructions that come before the conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// What the person says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
}

/// Whether the prompt ends with the words that open the model's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationPrompt {
    /// The prompt asks for an answer.
    Add,
    /// The prompt is the conversation alone.
    Omit,
}

/// Why a conversation could not be written as a prompt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The template does not accept the conversation, for instance two messages of one role in a row.
    #[error("the model's chat template refuses this conversation: {message}")]
    Refused {
        /// The template's own words.
        message: String,
    },
    /// The template is not valid, or uses what is not supported.
    #[error("the model's chat template cannot be used; give the prompt as raw text instead")]
    Template {
        /// What is wrong, and where.
        #[source]
        cause: Box<dyn StdError + Send + Sync>,
    },
}

/// The Jinja template that writes messages as the prompt a model was trained on.
///
/// Behaves as in Hugging Face Transformers: Python's string methods, `tojson` without HTML escapes, `raise_exception`,
/// `strftime_now` (in UTC), loop controls, and blocks that leave no blank lines behind. Tools and documents are not
/// passed. The prompt holds the special tokens as text, so encode it with
/// [`AddSpecial::No`](super::AddSpecial::No), lest a second one is put in front.
///
/// ```
/// use smoke_models::text::{ChatTemplate, Message};
///
/// let template = ChatTemplate::new("{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}");
/// let prompt = template.render(&[Message::user("Hello")])?;
/// assert_eq!(prompt, "[user] Hello");
/// # Ok::<(), smoke_models::text::ChatError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    source: String,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// A template from its Jinja source. It is parsed when rendered, so that a template that cannot be used stands in
    /// nobody's way who does not want it.
    pub fn new(source: impl Into<String>) -> Self {
        Self { source: source.into(), bos_token: String::new(), eos_token: String::new() }
    }

    /// Sets what the template sees as `bos_token` and `eos_token`; empty by default.
    pub fn with_tokens(mut self, bos_token: impl Into<String>, eos_token: impl Into<String>) -> Self {
        self.bos_token = bos_token.into();
        self.eos_token = eos_token.into();
        self
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt that asks for an answer to `messages`. A template that asks for the date is told the system's, in UTC.
    ///
    /// # Errors
    /// If the template is not valid or refuses the conversation.
    pub fn render(&self, messages: &[Message]) -> Result<String, ChatError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.render_at(now, messages, GenerationPrompt::Add)
    }

    /// The prompt for `messages` at a given time in seconds since 1970, with or without the words that open an answer.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn render_at(
        &self,
        unix_seconds: u64,
        messages: &[Message],
        generation: GenerationPrompt,
    ) -> Result<String, ChatError> {
        let source = without_generation_tags(&self.source);
        let environment = environment(unix_seconds);
        let template = environment.template_from_named_str("chat_template", &source).map_err(chat_error)?;
        template
            .render(context! {
                messages,
                add_generation_prompt => generation == GenerationPrompt::Add,
                bos_token => self.bos_token,
                eos_token => self.eos_token,
                tools => Value::from(()),
                documents => Value::from(()),
            })
            .map_err(chat_error)
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Templates run to hundreds of lines.
        f.debug_struct("ChatTemplate")
            .field("source_bytes", &self.source.len())
            .field("bos_token", &self.bos_token)
            .field("eos_token", &self.eos_token)
            .finish()
    }
}

fn environment<'source>(unix_seconds: u64) -> Environment<'source> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", |value: &Value, options: Kwargs| tojson(value, options));
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "the template raised an exception").with_source(Raised { message }))
    });
    environment.add_function("strftime_now", move |format: &str| -> Result<String, Error> {
        strftime(format, unix_seconds).map_err(|code| {
            Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know {code} in {format:?}"))
        })
    });
    environment
}

/// What `raise_exception` leaves in the error's chain of causes.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Raised {
    message: String,
}

fn chat_error(error: Error) -> ChatError {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(raised) = current.downcast_ref::<Raised>() {
            return ChatError::Refused { message: raised.message.clone() };
        }
        cause = current.source();
    }
    ChatError::Template { cause: error.into() }
}

/// Transformers marks the model's own words by `{% generation %}` blocks, for training. They write nothing, and no other
/// Jinja knows them: each becomes an `if` that always holds, whose tags treat white space alike.
fn without_generation_tags(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        text.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (body, after) = tag.split_at(end);
        let name = body.trim_matches(['-', '+', ' ', '\t', '\r', '\n']);
        match name {
            "generation" => text.push_str(&body.replace("generation", "if true")),
            "endgeneration" => text.push_str(&body.replace("endgeneration", "endif")),
            _ => text.push_str(body),
        }
        rest = after;
    }
    text.push_str(rest);
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-07-26.
    const NOW: u64 = 1_721_952_000;

    #[track_caller]
    fn check(source: &str, messages: &[Message], generation: GenerationPrompt, expected: &str) {
        let template = ChatTemplate::new(source).with_tokens("<s>", "</s>");
        assert_eq!(template.render_at(NOW, messages, generation).unwrap(), expected);
    }

    fn conversation() -> Vec<Message> {
        vec![Message::system(" Be brief. "), Message::user("Hi"), Message::assistant("Hello")]
    }

    #[test]
    fn chatml() {
        let source = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' \
                      + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        let turns = "<|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
                     <|im_start|>assistant\nHello<|im_end|>\n";
        check(source, &conversation(), GenerationPrompt::Omit, turns);
        check(source, &conversation(), GenerationPrompt::Add, &format!("{turns}<|im_start|>assistant\n"));
    }

    #[test]
    fn python_methods_namespaces_and_dates() {
        let source = "{{- bos_token }}\n{%- set ns = namespace(n=0) %}\n\
                      {%- if not date_string is defined %}\n{%- set date_string = strftime_now('%d %b %Y') %}\n{%- endif %}\n\
                      {{- 'Today: ' + date_string }}\n\
                      {%- for m in messages %}\n    {%- set ns.n = ns.n + 1 %}\n    \
                      {{- '|' ~ m.role.upper() ~ ':' ~ m['content'].strip().split(' ')[-1] }}\n\
                      {%- if m.role == 'user' %}{% break %}{% endif %}\n{%- endfor %}\n\
                      {{- '|' ~ ns.n ~ (messages[0].content | trim)[:2] ~ (tools is none) ~ eos_token }}\n";
        let expected = "<s>Today: 26 Jul 2024|SYSTEM:brief.|USER:Hi|2BeTrue</s>";
        check(source, &conversation(), GenerationPrompt::Omit, expected);
    }

    #[test]
    fn blocks_leave_no_blank_lines() {
        let source =
            "{% for m in messages %}\n    {% if m.role == 'user' %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}\n";
        check(source, &conversation(), GenerationPrompt::Omit, "Hi\n");
    }

    #[test]
    fn generation_tags_are_transparent() {
        let source =
            "{%- for m in messages -%}\n[{% generation %}{{ m.content | trim }}{%- endgeneration %} ]\n{%- endfor -%}";
        check(source, &conversation(), GenerationPrompt::Omit, "[Be brief. ][Hi ][Hello ]");
        check("{% if add_generation_prompt %}generation{% endif %}", &[], GenerationPrompt::Add, "generation");
    }

    #[test]
    fn a_refusal_gives_the_reason() {
        let template = ChatTemplate::new(
            "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
             {{ raise_exception('Roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}",
        );
        let error = template.render_at(NOW, &conversation(), GenerationPrompt::Add).unwrap_err();
        assert!(matches!(&error, ChatError::Refused { message } if message == "Roles must alternate"), "{error:?}");
    }

    #[test]
    fn a_broken_template_is_an_error() {
        for source in
            ["{% for m in %}", "{% unknown %}", "{{ messages[0].nothing.here }}", "{{ nobody() }}", "{% generation"]
        {
            let error = ChatTemplate::new(source).render_at(NOW, &conversation(), GenerationPrompt::Add).unwrap_err();
            assert!(matches!(error, ChatError::Template { .. }), "{source}: {error:?}");
        }
    }
}
