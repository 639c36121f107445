//! [adapter] UpkeepService.

use super::{Adapter, AnswerStream, Cut, limited, streamed, unary};
use crate::service::Service;
use aber_proto::generated::v1::{self, upkeep_service_server as generated};
use tonic::{Request, Response, Status};

pub(super) fn server<S: Service>(
    adapter: Adapter<S>,
) -> generated::UpkeepServiceServer<Adapter<S>> {
    limited!(generated::UpkeepServiceServer::new(adapter))
}

#[tonic::async_trait]
impl<S: Service> generated::UpkeepService for Adapter<S> {
    type VerifyStream = AnswerStream<v1::VerifyResponse>;

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        streamed(Cut::Follow, self.service.verify(request.into_inner())).await
    }

    async fn stop(
        &self,
        request: Request<v1::StopRequest>,
    ) -> Result<Response<v1::StopResponse>, Status> {
        unary(self.service.stop(request.into_inner())).await
    }

    async fn plan_prune(
        &self,
        request: Request<v1::PlanPruneRequest>,
    ) -> Result<Response<v1::PlanPruneResponse>, Status> {
        unary(self.service.plan_prune(request.into_inner())).await
    }

    type ApplyPruneStream = AnswerStream<v1::ApplyPruneResponse>;

    async fn apply_prune(
        &self,
        request: Request<v1::ApplyPruneRequest>,
    ) -> Result<Response<Self::ApplyPruneStream>, Status> {
        streamed(Cut::Follow, self.service.apply_prune(request.into_inner())).await
    }
}
