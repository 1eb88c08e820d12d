//! `multipart/form-data`: every field `file` is one file; its `filename` is the path unless the query names it.

use futures_util::{StreamExt, stream::unfold};

use super::{
    metadata::Metadata,
    upload::{Body, Transfer, Written},
};
use crate::{
    error::{Error, Result},
    paths,
    user::User,
};

/// Stores every file of the body, in order.
///
/// # Errors
/// As for one file; those before the one that failed stay written.
pub async fn store(
    body: Body,
    boundary: String,
    user: &User,
    base: &str,
    path: Option<String>,
    metadata: Metadata,
) -> Result<Vec<Written>> {
    let frames = unfold(body, |body| async move {
        Some((body.next().await.transpose()?, body))
    });
    let mut fields = multer::Multipart::new(frames.boxed(), boundary);
    let mut written: Vec<Written> = Vec::new();
    while let Some(mut field) = fields.next_field().await.map_err(wrong)? {
        if field.name() != Some("file") {
            continue;
        }
        let target = match &path {
            Some(_) if !written.is_empty() => {
                return Err(Error::invalid(
                    "the query 'path' names one file, but the body carries several",
                ));
            }
            Some(path) => path.clone(),
            None => {
                let name = field.file_name().filter(|name| !name.is_empty());
                let name = name.ok_or_else(|| {
                    Error::invalid("a field 'file' needs a filename or the query 'path'")
                })?;
                paths::resolve(&unescape(name), user, base)?
            }
        };
        let transfer = Transfer::begin(user.clone(), target, metadata.clone(), false);
        while let Some(data) = field.chunk().await.map_err(wrong)? {
            if !transfer.send(data).await {
                break;
            }
        }
        written.push(transfer.finish().await?);
    }
    if written.is_empty() {
        return Err(Error::invalid("the multipart body has no field 'file'"));
    }
    Ok(written)
}

/// Undoes what HTML forms do to a filename.
fn unescape(name: &str) -> String {
    name.replace("%22", "\"")
        .replace("%0D", "\r")
        .replace("%0A", "\n")
}

fn wrong(error: multer::Error) -> Error {
    Error::invalid(format!("the multipart body is not valid: {error}"))
}
