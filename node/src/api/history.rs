//! [adapter] HistoryService.

use super::remote::asker;
use super::{Adapter, AnswerStream, Cut, limited, settle_options, streamed, unary};
use crate::service::Service;
use aber_proto::generated::v1::{self, history_service_server as generated};
use tonic::{Request, Response, Status};

pub(super) fn server<S: Service>(
    adapter: Adapter<S>,
) -> generated::HistoryServiceServer<Adapter<S>> {
    limited!(generated::HistoryServiceServer::new(adapter))
}

#[tonic::async_trait]
impl<S: Service> generated::HistoryService for Adapter<S> {
    type ApplyRevertStream = AnswerStream<v1::ApplyRevertResponse>;
    type DiffStream = AnswerStream<v1::DiffResponse>;

    async fn list_entries(
        &self,
        request: Request<v1::ListEntriesRequest>,
    ) -> Result<Response<v1::ListEntriesResponse>, Status> {
        unary(self.service.list_entries(request.into_inner())).await
    }

    async fn plan_revert(
        &self,
        request: Request<v1::PlanRevertRequest>,
    ) -> Result<Response<v1::PlanRevertResponse>, Status> {
        unary(self.service.plan_revert(request.into_inner())).await
    }

    async fn apply_revert(
        &self,
        request: Request<v1::ApplyRevertRequest>,
    ) -> Result<Response<Self::ApplyRevertStream>, Status> {
        let asker = asker(&request);
        let mut request = request.into_inner();
        settle_options(&mut request.options, asker);
        streamed(Cut::Follow, self.service.apply_revert(request)).await
    }

    async fn resolve_moment(
        &self,
        request: Request<v1::ResolveMomentRequest>,
    ) -> Result<Response<v1::ResolveMomentResponse>, Status> {
        unary(self.service.resolve_moment(request.into_inner())).await
    }

    async fn get_entry(
        &self,
        request: Request<v1::GetEntryRequest>,
    ) -> Result<Response<v1::GetEntryResponse>, Status> {
        unary(self.service.get_entry(request.into_inner())).await
    }

    async fn list_versions(
        &self,
        request: Request<v1::ListVersionsRequest>,
    ) -> Result<Response<v1::ListVersionsResponse>, Status> {
        unary(self.service.list_versions(request.into_inner())).await
    }

    async fn diff(
        &self,
        request: Request<v1::DiffRequest>,
    ) -> Result<Response<Self::DiffStream>, Status> {
        streamed(Cut::Idle, self.service.diff(request.into_inner())).await
    }

    async fn blame(
        &self,
        request: Request<v1::BlameRequest>,
    ) -> Result<Response<v1::BlameResponse>, Status> {
        unary(self.service.blame(request.into_inner())).await
    }

    async fn create_tag(
        &self,
        request: Request<v1::CreateTagRequest>,
    ) -> Result<Response<v1::CreateTagResponse>, Status> {
        unary(self.service.create_tag(request.into_inner())).await
    }

    async fn list_tags(
        &self,
        request: Request<v1::ListTagsRequest>,
    ) -> Result<Response<v1::ListTagsResponse>, Status> {
        unary(self.service.list_tags(request.into_inner())).await
    }

    async fn delete_tag(
        &self,
        request: Request<v1::DeleteTagRequest>,
    ) -> Result<Response<v1::DeleteTagResponse>, Status> {
        unary(self.service.delete_tag(request.into_inner())).await
    }
}
