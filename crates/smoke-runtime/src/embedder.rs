//! Texts as vectors.

use smoke_models::text::AddSpecial;
use smoke_models::{EncoderInput, Keep, Length, Model, Pooling, SentencePooling, TextEncoder};

use crate::error::RuntimeError;
use crate::plan::Load;
use crate::runtime::Runtime;

/// The most texts that go through the model at once: with more, reading the weights is no longer what takes long.
const MOST_ROWS: usize = 64;

/// How texts become vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EmbedOptions {
    /// How the features of a text's tokens become one vector; unless said, what `modules.json` beside the checkpoint says,
    /// or their mean.
    pub pooling: Option<Pooling>,
    /// The length of vectors; unless said, what `modules.json` says, or whatever it comes to.
    pub length: Option<Length>,
    /// What happens to texts of more tokens than the model takes.
    pub too_long: TooLong,
}

/// What happens to texts of more tokens than the model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TooLong {
    /// They are refused.
    #[default]
    Refuse,
    /// Their ends are left out.
    Cut,
}

/// Turns texts into vectors that lie near one another where the texts mean the same, within the memory budget of its
/// [`Runtime`].
///
/// ```no_run
/// use smoke_runtime::{EmbedOptions, Runtime};
///
/// let runtime = Runtime::builder("models/minilm").memory("30MB").open()?;
/// let embedder = runtime.embedder(EmbedOptions::default())?;
/// let vectors = embedder.embed(&["The cat sits on the mat.", "A feline rests on a rug."])?;
/// let cosine: f32 = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum();
/// # Ok::<(), smoke_runtime::RuntimeError>(())
/// ```
#[derive(Debug)]
pub struct Embedder<'a> {
    runtime: &'a Runtime,
    model: &'a dyn TextEncoder,
    sentences: SentencePooling,
    too_long: TooLong,
}

impl Runtime {
    /// Makes this model embed texts.
    ///
    /// # Errors
    /// [`RuntimeError::NoEmbeddings`] if it is no text encoder; else if there is no tokenizer, or `modules.json` is damaged
    /// or asks for what is not supported.
    pub fn embedder(&self, options: EmbedOptions) -> Result<Embedder<'_>, RuntimeError> {
        let Model::Encoder(model) = &self.model else {
            let (architecture, kind) = (self.config().architecture, self.model.kind());
            return Err(RuntimeError::NoEmbeddings { architecture, kind });
        };
        self.tokenizer()?;
        let mut sentences = SentencePooling::in_directory(&self.directory)?;
        sentences.pooling = options.pooling.unwrap_or(sentences.pooling);
        sentences.length = options.length.unwrap_or(sentences.length);
        Ok(Embedder { runtime: self, model: &**model, sentences, too_long: options.too_long })
    }
}

impl Embedder<'_> {
    /// Elements of a vector.
    pub fn dimensions(&self) -> usize {
        self.model.config().hidden
    }

    /// The most tokens of a text, special ones included.
    pub fn max_tokens(&self) -> usize {
        let limit = self.model.config().max_positions;
        self.sentences.max_tokens.map_or(limit, |tokens| tokens.min(limit))
    }

    /// The vectors of `texts`, in their order. Texts of about the same length go through the model together, as many as
    /// memory allows, so that weights which stream are read for all of them at once.
    ///
    /// # Errors
    /// [`RuntimeError`] if a text has no tokens or too many, memory does not hold the longest, or weights cannot be
    /// loaded.
    pub fn embed(&self, texts: &[impl AsRef<str>]) -> Result<Vec<Vec<f32>>, RuntimeError> {
        let texts = texts.iter().map(|text| self.tokens(text.as_ref())).collect::<Result<Vec<_>, _>>()?;
        self.embed_tokens(&texts)
    }

    /// The same for texts that are tokens already, special ones included.
    ///
    /// # Errors
    /// [`RuntimeError`] if a text has no tokens or too many, memory does not hold the longest, or weights cannot be
    /// loaded.
    pub fn embed_tokens(&self, texts: &[impl AsRef<[u32]>]) -> Result<Vec<Vec<f32>>, RuntimeError> {
        let texts: Vec<&[u32]> = texts.iter().map(AsRef::as_ref).collect();
        let limit = self.max_tokens();
        for (text, tokens) in (1..).zip(texts.iter().map(|text| text.len())) {
            match tokens {
                0 => return Err(RuntimeError::EmptyPrompt),
                tokens if tokens > limit => return Err(RuntimeError::TextTooLong { text, tokens, limit }),
                _ => {}
            }
        }
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&place| std::cmp::Reverse(texts[place].len()));
        let mut vectors = vec![Vec::new(); texts.len()];
        let mut left = &order[..];
        while let Some(&longest) = left.first() {
            let (batch, rest) = left.split_at(self.rows_that_fit(texts[longest].len()).min(left.len()));
            left = rest;
            let rows: Vec<&[u32]> = batch.iter().map(|&place| texts[place]).collect();
            for (&place, vector) in batch.iter().zip(self.embed_batch(&rows)?) {
                vectors[place] = vector;
            }
        }
        Ok(vectors)
    }

    /// The tokens of one text, special ones included.
    fn tokens(&self, text: &str) -> Result<Vec<u32>, RuntimeError> {
        let limit = match self.too_long {
            TooLong::Refuse => usize::MAX,
            TooLong::Cut => self.max_tokens(),
        };
        Ok(self.runtime.tokenizer()?.encode_at_most(text, AddSpecial::Yes, limit)?)
    }

    /// How many texts of so many tokens go through at once: as many as make for the fewest bytes read per text. More of
    /// them share what is read, but take memory from weights that could stay.
    fn rows_that_fit(&self, tokens: usize) -> usize {
        let read_bytes = |rows: usize| {
            let plan = self.runtime.plan_load(Load::Embedding { rows, tokens }).ok()?;
            Some((plan.streamed_bytes / rows as u64, rows))
        };
        (1..=MOST_ROWS).rev().filter_map(read_bytes).min_by_key(|(bytes, _)| *bytes).map_or(1, |(_, rows)| rows)
    }

    fn embed_batch(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, RuntimeError> {
        let row_len = texts.iter().map(|text| text.len()).max().unwrap_or_default();
        let padding: Vec<usize> = texts.iter().map(|text| row_len - text.len()).collect();
        let rows = texts.iter().zip(&padding);
        let tokens: Vec<u32> = rows.flat_map(|(text, &pad)| [&vec![0; pad][..], text].concat()).collect();
        let Runtime { weights, .. } = self.runtime;
        let load = Load::Embedding { rows: texts.len(), tokens: row_len };
        let plan = self.runtime.follow(load)?;
        let input = EncoderInput { tokens: &tokens, padding: &padding, segments: &[] };
        let result =
            weights.streamer().make_room(plan.activation_bytes).map_err(RuntimeError::from).and_then(|permit| {
                let vectors = self.vectors(&input);
                weights.release();
                drop(permit);
                vectors
            });
        self.runtime.finish();
        result
    }

    fn vectors(&self, input: &EncoderInput<'_>) -> Result<Vec<Vec<f32>>, RuntimeError> {
        let mut states = self.model.encode(&self.runtime.weights, input, Keep::Last)?;
        let Some(hidden) = states.pop() else { return Ok(Vec::new()) };
        let copied;
        let floats = match hidden.on_host() {
            Some(floats) => floats,
            None => {
                copied = hidden.to_vec();
                &copied
            }
        };
        Ok(self.sentences.apply(floats, input.padding, hidden.features()))
    }
}
