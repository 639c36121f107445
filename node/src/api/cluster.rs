//! [adapter] ClusterService.

use super::{Adapter, AnswerStream, Cut, limited, streamed, unary};
use crate::service::Service;
use aber_proto::generated::v1::{self, cluster_service_server as generated};
use tonic::{Request, Response, Status};

pub(super) fn server<S: Service>(
    adapter: Adapter<S>,
) -> generated::ClusterServiceServer<Adapter<S>> {
    limited!(generated::ClusterServiceServer::new(adapter))
}

#[tonic::async_trait]
impl<S: Service> generated::ClusterService for Adapter<S> {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        unary(self.service.get_status(request.into_inner())).await
    }

    async fn list_members(
        &self,
        request: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        unary(self.service.list_members(request.into_inner())).await
    }

    async fn update_member(
        &self,
        request: Request<v1::UpdateMemberRequest>,
    ) -> Result<Response<v1::UpdateMemberResponse>, Status> {
        unary(self.service.update_member(request.into_inner())).await
    }

    async fn list_links(
        &self,
        request: Request<v1::ListLinksRequest>,
    ) -> Result<Response<v1::ListLinksResponse>, Status> {
        unary(self.service.list_links(request.into_inner())).await
    }

    async fn get_relay(
        &self,
        request: Request<v1::GetRelayRequest>,
    ) -> Result<Response<v1::GetRelayResponse>, Status> {
        unary(self.service.get_relay(request.into_inner())).await
    }

    async fn get_metrics(
        &self,
        request: Request<v1::GetMetricsRequest>,
    ) -> Result<Response<v1::GetMetricsResponse>, Status> {
        unary(self.service.get_metrics(request.into_inner())).await
    }

    async fn list_tickets(
        &self,
        request: Request<v1::ListTicketsRequest>,
    ) -> Result<Response<v1::ListTicketsResponse>, Status> {
        unary(self.service.list_tickets(request.into_inner())).await
    }

    async fn revoke_ticket(
        &self,
        request: Request<v1::RevokeTicketRequest>,
    ) -> Result<Response<v1::RevokeTicketResponse>, Status> {
        unary(self.service.revoke_ticket(request.into_inner())).await
    }

    async fn plan_removal(
        &self,
        request: Request<v1::PlanRemovalRequest>,
    ) -> Result<Response<v1::PlanRemovalResponse>, Status> {
        unary(self.service.plan_removal(request.into_inner())).await
    }

    type ApplyClusterPlanStream = AnswerStream<v1::ApplyClusterPlanResponse>;

    async fn apply_cluster_plan(
        &self,
        request: Request<v1::ApplyClusterPlanRequest>,
    ) -> Result<Response<Self::ApplyClusterPlanStream>, Status> {
        let applied = self.service.apply_cluster_plan(request.into_inner());
        streamed(Cut::Idle, applied).await
    }

    async fn list_volumes(
        &self,
        request: Request<v1::ListVolumesRequest>,
    ) -> Result<Response<v1::ListVolumesResponse>, Status> {
        unary(self.service.list_volumes(request.into_inner())).await
    }

    async fn list_partitions(
        &self,
        request: Request<v1::ListPartitionsRequest>,
    ) -> Result<Response<v1::ListPartitionsResponse>, Status> {
        unary(self.service.list_partitions(request.into_inner())).await
    }

    async fn create_ticket(
        &self,
        request: Request<v1::CreateTicketRequest>,
    ) -> Result<Response<v1::CreateTicketResponse>, Status> {
        unary(self.service.create_ticket(request.into_inner())).await
    }

    async fn update_volume(
        &self,
        request: Request<v1::UpdateVolumeRequest>,
    ) -> Result<Response<v1::UpdateVolumeResponse>, Status> {
        unary(self.service.update_volume(request.into_inner())).await
    }
}
