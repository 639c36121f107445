//! [adapter] ClusterService.

use super::{Adapter, limited, unary};
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
}
