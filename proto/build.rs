//! Compiles the `.proto` files without protoc: protox parses, tonic-prost-build generates. The
//! durable and node-to-node messages are always built, the gRPC API with feature `service`.

#![expect(
    clippy::disallowed_methods,
    reason = "a build script has the compiler's disk and no other"
)]

use prost::Message;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    build(
        &[
            "proto/aber/store.proto",
            "proto/aber/link.proto",
            "proto/aber/rpc.proto",
            "proto/aber/outbox.proto",
        ],
        &out,
    )?;
    if std::env::var_os("CARGO_FEATURE_SERVICE").is_some() {
        build(
            &[
                "proto/aber/linkservice.proto",
                "proto/aber/joinservice.proto",
            ],
            &out,
        )?;
        let mut files = Vec::new();
        for entry in std::fs::read_dir("proto/aber/v1")? {
            files.push(entry?.path());
        }
        files.sort();
        build(&files, &out)?;
    }
    Ok(())
}

fn build<P: AsRef<std::path::Path>>(
    files: &[P],
    out: &std::path::Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let set = protox::compile(files, ["proto"])?;
    let set = prost_types_of(&set.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .out_dir(out)
        .compile_fds(set)?;
    Ok(())
}

fn prost_types_of(
    bytes: &[u8],
) -> Result<prost_types::FileDescriptorSet, Box<dyn std::error::Error>> {
    Ok(prost_types::FileDescriptorSet::decode(bytes)?)
}
