//! [adapter] `metrics`: counters and gauges, as text that Prometheus reads.

use super::{Context, Outcome};
use aber_proto::generated::v1;
use serde_json::json;

/// Runs `metrics`.
pub(crate) async fn metrics(context: &Context) -> Outcome {
    let client = context.connect().await?;
    let text = client.get_metrics(v1::GetMetricsRequest {}).await?.text;
    // Names of members are all that is not ours in it, and they are plain.
    let shown = text.trim_end().to_owned();
    context.out.result(Some(shown), json!({"text": text}));
    Ok(0)
}
