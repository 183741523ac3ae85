//! Text to token ids and back, by a checkpoint's `tokenizer.json`.

use crate::{Result, fail};
use moec_ir::Diagnostic;
use std::path::Path;
use tokenizers as hf;

/// A tokenizer.
pub struct Tokenizer {
    inner: hf::Tokenizer,
}

const FILE: &str = "tokenizer.json";

impl Tokenizer {
    /// Whether a folder has a tokenizer.
    pub fn is_in(folder: &Path) -> bool {
        folder.join(FILE).is_file()
    }

    /// Reads `tokenizer.json` of a folder.
    ///
    /// # Errors
    /// E0701 where it is missing or unreadable, E0702 where it is not a tokenizer.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let bytes = std::fs::read(&path).map_err(|e| {
            let message = format!("`{}` cannot be read: {e}", path.display());
            vec![
                Diagnostic::error("E0701", message)
                    .help("give the prompt as token ids: `--prompt-ids 1,2,3`"),
            ]
        })?;
        match hf::Tokenizer::from_bytes(&bytes) {
            Ok(inner) => Ok(Self { inner }),
            Err(e) => {
                let message = format!("`{}` is not a tokenizer: {e}", path.display());
                fail(Diagnostic::error("E0702", message).help("download the file again"))
            }
        }
    }

    /// The token ids of a text, with the special tokens that the tokenizer puts around it.
    ///
    /// # Errors
    /// E0703 where the tokenizer cannot.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self.inner.encode(text, true) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(e) => fail(Diagnostic::error("E0703", format!("the text has no token ids: {e}"))),
        }
    }

    /// The text of token ids, without special tokens.
    ///
    /// # Errors
    /// E0703 where the tokenizer cannot.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).or_else(|e| {
            fail(Diagnostic::error("E0703", format!("the token ids have no text: {e}")))
        })
    }

    /// Begins to decode token by token.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { inner: self.inner.decode_stream(true) }
    }
}

/// Decodes one token after another; a character is given when its last byte has come.
pub struct TextStream<'a> {
    inner: hf::tokenizer::DecodeStream<
        'a,
        hf::ModelWrapper,
        hf::NormalizerWrapper,
        hf::PreTokenizerWrapper,
        hf::PostProcessorWrapper,
        hf::DecoderWrapper,
    >,
}

impl TextStream<'_> {
    /// What a further token adds to the text; empty while a character is incomplete.
    ///
    /// # Errors
    /// E0703 where the tokenizer cannot.
    pub fn push(&mut self, id: u32) -> Result<String> {
        match self.inner.step(id) {
            Ok(text) => Ok(text.unwrap_or_default()),
            Err(e) => fail(Diagnostic::error("E0703", format!("token {id} has no text here: {e}"))),
        }
    }
}
