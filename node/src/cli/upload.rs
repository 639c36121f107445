//! [adapter] One content as a stream into the tree: large files, and standard input.
//!
//! The end of a content is a message of its own, so that a reader that fails leaves no file. A file
//! is read again when a call is repeated; standard input cannot be, so it has one try.

use super::load::{Landed, Summary, event, is_of_one_path};
use super::walk;
use super::write::{Writer, Written, new_request_id};
use crate::client::PIECE_BYTES;
use crate::reason::{Problem, Reason};
use aber_proto::generated::v1::{self, event::Operation, upload_request::Message};
use bytes::Bytes;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Uploads one file.
pub(super) async fn land_file(writer: Writer, header: v1::UploadHeader, local: PathBuf) -> Landed {
    let mut landed = Landed::default();
    let path = header.path.clone();
    match upload_file(&writer, header, local).await {
        Ok((written, size)) => {
            let put = v1::Put {
                path,
                size,
                ..Default::default()
            };
            landed.done.push(event(Operation::Put(put)));
            landed.written.push(written);
            writer.movement.add(&writer.movement.files, 1);
        }
        Err(problem) if is_of_one_path(&problem) => landed.failures.push(problem),
        Err(problem) => landed.fatal = Some(problem),
    }
    landed
}

async fn upload_file(
    writer: &Writer,
    header: v1::UploadHeader,
    local: PathBuf,
) -> Result<(Written, u64), Problem> {
    let id = new_request_id()?;
    let header = v1::UploadHeader {
        options: Some(writer.options(id)),
        ..header
    };
    loop {
        let sent = Sent::default();
        let response = writer
            .persist(|| upload_once(writer, &header, &local, &sent))
            .await?;
        let result = response.result.unwrap_or_default();
        if let Some(written) = writer.follow(id, result).await? {
            return Ok((written, sent.size()));
        }
    }
}

async fn upload_once(
    writer: &Writer,
    header: &v1::UploadHeader,
    local: &std::path::Path,
    sent: &Sent,
) -> Result<v1::UploadResponse, Problem> {
    let (file, _) = walk::open(local).map_err(|error| walk::unreadable(local, &error))?;
    sent.restart();
    let pieces = pieces(
        tokio::fs::File::from_std(file),
        writer.clone(),
        sent.clone(),
    );
    let answer = writer.client.upload(header.clone(), pieces).await;
    match sent.problem() {
        Some(error) => Err(walk::unreadable(local, &std::io::Error::other(error))),
        None => answer,
    }
}

/// Uploads what a reader gives, once: it cannot be read again.
pub(crate) async fn upload_reader(
    writer: &Writer,
    header: v1::UploadHeader,
    reader: impl AsyncRead + Send + Unpin + 'static,
) -> Result<Summary, Problem> {
    let id = new_request_id()?;
    let header = v1::UploadHeader {
        options: Some(writer.options(id)),
        ..header
    };
    let sent = Sent::default();
    let path = header.path.clone();
    let answer = writer
        .client
        .upload(header, pieces(reader, writer.clone(), sent.clone()))
        .await;
    if let Some(error) = sent.problem() {
        let problem = Problem::new(Reason::SourceUnreadable).with("path", "standard input");
        return Err(problem.with("detail", error));
    }
    let result = answer?.result.unwrap_or_default();
    let written = writer.follow(id, result).await?;
    let written =
        written.ok_or_else(|| Problem::new(Reason::ChangeUnknown).with("requestId", id))?;
    let mut summary = Summary::default();
    let put = v1::Put {
        path,
        size: sent.size(),
        ..Default::default()
    };
    summary.count(&event(Operation::Put(put)));
    summary.take(written);
    Ok(summary)
}

/// What an upload has sent, and what stopped it on our side.
#[derive(Clone, Default)]
struct Sent(Arc<Mutex<(u64, Option<String>)>>);

impl Sent {
    fn with<T>(&self, look: impl FnOnce(&mut (u64, Option<String>)) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn restart(&self) {
        self.with(|state| *state = (0, None));
    }

    fn size(&self) -> u64 {
        self.with(|state| state.0)
    }

    fn problem(&self) -> Option<String> {
        self.with(|state| state.1.clone())
    }
}

/// The messages of an upload after its header. A reader that fails leaves out the end mark.
fn pieces(
    reader: impl AsyncRead + Send + Unpin + 'static,
    writer: Writer,
    sent: Sent,
) -> impl futures::Stream<Item = v1::UploadRequest> + Send + 'static {
    futures::stream::unfold(Some(reader), move |reader| {
        let (writer, sent) = (writer.clone(), sent.clone());
        async move {
            let mut reader = reader?;
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let mut limited = (&mut reader).take(PIECE_BYTES as u64);
            if let Err(error) = limited.read_to_end(&mut piece).await {
                sent.with(|state| state.1 = Some(error.to_string()));
                return None;
            }
            let length = piece.len() as u64;
            let size = sent.with(|state| {
                state.0 += length;
                state.0
            });
            writer.movement.add(&writer.movement.read_bytes, length);
            if piece.is_empty() {
                let end = Message::End(v1::UploadEnd { size });
                return Some((v1::UploadRequest { message: Some(end) }, None));
            }
            let data = Message::Data(Bytes::from(piece));
            Some((
                v1::UploadRequest {
                    message: Some(data),
                },
                Some(reader),
            ))
        }
    })
}
