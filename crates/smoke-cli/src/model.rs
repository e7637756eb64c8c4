//! Where the model is: a path, or a model of the hub that is fetched first.

use std::error::Error;
use std::io;

use smoke_hub::{Hub, HubError, ModelId, ModelIdError};

use crate::arguments::ModelArguments;
use crate::commands;
use crate::report::FetchBars;

/// Why a text leads to no model.
#[derive(Debug, thiserror::Error)]
enum NoModel {
    #[error("{text}: there is no such file or directory here ({here}), and {cause}")]
    Neither { text: String, here: io::Error, cause: ModelIdError },
    #[error("{text}: there is no such file or directory here, and the hub does not give it: {cause}")]
    Hub { text: String, cause: HubError },
}

/// Makes the model a path that can be opened. What is here goes before what a hub has.
pub(crate) fn resolve(arguments: &mut ModelArguments) -> commands::Result {
    let here = match std::fs::metadata(&arguments.model) {
        Ok(_) => {
            arguments.model.extend(&arguments.file);
            return Ok(());
        }
        Err(here) => here,
    };
    let text = arguments.model.display().to_string();
    let id = match parse(&text, arguments.file.as_deref()) {
        Ok(id) => id,
        Err(cause) => return Err(NoModel::Neither { text, here, cause }.into()),
    };
    let hub = Hub::from_env()?;
    let mut bars = FetchBars::default();
    let fetched = hub.fetch(&id, &mut |progress| bars.show(&progress));
    bars.finish();
    arguments.model = fetched.map_err(|cause| -> Box<dyn Error> { NoModel::Hub { text, cause }.into() })?;
    Ok(())
}

fn parse(text: &str, file: Option<&str>) -> Result<ModelId, ModelIdError> {
    let id: ModelId = text.parse()?;
    match file {
        Some(file) => id.with_file(file),
        None => Ok(id),
    }
}
