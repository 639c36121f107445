//! [adapter] FileService.

use super::remote::asker;
use super::{Adapter, AnswerStream, Cut, IDLE_DEADLINE, limited, settle_options, streamed, unary};
use crate::reason::{Problem, Reason};
use crate::service::{Piece, Service, Upload};
use aber_proto::generated::v1::file_service_server::{FileService, FileServiceServer};
use aber_proto::generated::v1::{self, upload_request};
use aber_proto::limit;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

pub(super) fn server<S: Service>(adapter: Adapter<S>) -> FileServiceServer<Adapter<S>> {
    limited!(FileServiceServer::new(adapter))
}

#[tonic::async_trait]
impl<S: Service> FileService for Adapter<S> {
    type DownloadStream = AnswerStream<v1::DownloadResponse>;
    type DownloadTreeStream = AnswerStream<v1::DownloadTreeResponse>;
    type WatchChangeStream = AnswerStream<v1::WatchChangeResponse>;

    async fn get_item(
        &self,
        request: Request<v1::GetItemRequest>,
    ) -> Result<Response<v1::GetItemResponse>, Status> {
        unary(self.service.get_item(request.into_inner())).await
    }

    async fn list_items(
        &self,
        request: Request<v1::ListItemsRequest>,
    ) -> Result<Response<v1::ListItemsResponse>, Status> {
        unary(self.service.list_items(request.into_inner())).await
    }

    async fn download(
        &self,
        request: Request<v1::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        streamed(Cut::Idle, self.service.download(request.into_inner())).await
    }

    async fn download_tree(
        &self,
        request: Request<v1::DownloadTreeRequest>,
    ) -> Result<Response<Self::DownloadTreeStream>, Status> {
        streamed(Cut::Idle, self.service.download_tree(request.into_inner())).await
    }

    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadRequest>>,
    ) -> Result<Response<v1::UploadResponse>, Status> {
        let asker = asker(&request);
        let mut stream = request.into_inner();
        let Some(upload_request::Message::Header(mut header)) = next(&mut stream, 0).await? else {
            return Err(Problem::usage("an upload starts with its header").into());
        };
        settle_options(&mut header.options, asker);
        let (sender, content) = Upload::channel();
        let work = self.service.upload(header, content);
        tokio::pin!(work);
        let answer = tokio::select! {
            biased;
            answer = &mut work => answer,
            () = pump(&mut stream, sender) => work.await,
        };
        Ok(Response::new(answer?))
    }

    async fn append_change(
        &self,
        request: Request<v1::AppendChangeRequest>,
    ) -> Result<Response<v1::AppendChangeResponse>, Status> {
        let asker = asker(&request);
        let mut request = request.into_inner();
        settle_options(&mut request.options, asker);
        if request.events.len() > limit::CHANGE_EVENTS {
            let problem = Problem::new(Reason::ChangeTooLarge)
                .with("events", request.events.len())
                .with("limit", format!("{} events", limit::CHANGE_EVENTS));
            return Err(problem.into());
        }
        unary(self.service.append_change(request)).await
    }

    async fn watch_change(
        &self,
        request: Request<v1::WatchChangeRequest>,
    ) -> Result<Response<Self::WatchChangeStream>, Status> {
        streamed(Cut::Follow, self.service.watch_change(request.into_inner())).await
    }
}

/// The next message of an upload, `None` at a clean or early end of the stream.
async fn next(
    stream: &mut Streaming<v1::UploadRequest>,
    received_bytes: u64,
) -> Result<Option<upload_request::Message>, Problem> {
    let broken = |detail: String| {
        Problem::new(Reason::UploadBroken)
            .with("bytes", received_bytes)
            .with("detail", detail)
    };
    match tokio::time::timeout(IDLE_DEADLINE, stream.message()).await {
        Ok(Ok(request)) => Ok(request.and_then(|request| request.message)),
        Ok(Err(status)) => Err(broken(status.message().to_owned())),
        Err(_) => Err(broken(format!(
            "{} s without a byte",
            IDLE_DEADLINE.as_secs()
        ))),
    }
}

/// Passes an upload on until its end mark or until it breaks. Nobody listening any more is no
/// failure: the service has answered already.
async fn pump(stream: &mut Streaming<v1::UploadRequest>, pieces: mpsc::Sender<Piece>) {
    let mut received_bytes = 0u64;
    loop {
        let piece = match next(stream, received_bytes).await {
            Ok(Some(upload_request::Message::Data(data))) => {
                received_bytes = received_bytes.saturating_add(data.len() as u64);
                Piece::Data(data)
            }
            Ok(Some(upload_request::Message::End(end))) if end.size == received_bytes => Piece::End,
            Ok(Some(upload_request::Message::End(end))) => Piece::Broken(
                Problem::new(Reason::UploadBroken)
                    .with("bytes", received_bytes)
                    .with("detail", format!("{} bytes were announced", end.size)),
            ),
            Ok(Some(upload_request::Message::Header(_))) => {
                Piece::Broken(Problem::usage("an upload has one header"))
            }
            Ok(None) => {
                Piece::Broken(Problem::new(Reason::UploadBroken).with("bytes", received_bytes))
            }
            Err(problem) => Piece::Broken(problem),
        };
        let last = !matches!(piece, Piece::Data(_));
        if pieces.send(piece).await.is_err() || last {
            return;
        }
    }
}
