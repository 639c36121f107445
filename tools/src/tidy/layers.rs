//! [pure] Layers: who may depend on whom, and on what from outside.
//!
//! `proto < log < materializer < node < {tests, tools}`, strict. A package that is not in the table
//! is a problem, and so is a dependency that its row does not name: the table is where a new one is
//! argued for.

use super::Problem;
use serde_json::Value;

/// What one package may use.
struct Layer {
    name: &'static str,
    /// Packages of ours.
    inside: &'static [&'static str],
    /// Packages of others; a trailing `*` stands for any ending.
    outside: &'static [&'static str],
    /// For its build script alone.
    build: &'static [&'static str],
}

const LAYERS: [Layer; 6] = [
    Layer {
        name: "aber-proto",
        inside: &[],
        outside: &[
            "blake3",
            "bytes",
            "data-encoding",
            "prost",
            "prost-types",
            "ring",
            "thiserror",
            "tonic",
            "tonic-prost",
        ],
        build: &["prost", "prost-types", "protox", "tonic-prost-build"],
    },
    Layer {
        name: "aber-log",
        inside: &["aber-proto"],
        outside: &[
            "blake3",
            "bytes",
            "crc32c",
            "fastcdc",
            "futures",
            "lz4_flex",
            "openraft*",
            "prost",
            "thiserror",
            "tokio",
            "tracing",
        ],
        build: &[],
    },
    Layer {
        name: "aber-materializer",
        inside: &["aber-proto", "aber-log"],
        outside: &[
            "blake3",
            "bytes",
            "futures",
            "prost",
            "thiserror",
            "tokio",
            "tracing",
            "unicode-normalization",
        ],
        build: &[],
    },
    Layer {
        name: "aber-node",
        inside: &["aber-proto", "aber-log", "aber-materializer"],
        outside: &[
            "anyhow",
            "blake3",
            "bytes",
            "clap",
            "data-encoding",
            "futures",
            "http",
            "hyper-util",
            "indicatif",
            "jiff",
            "notify",
            "prost",
            "prost-types",
            "qrcode",
            "ring",
            "rustix",
            "rustls",
            "serde",
            "serde_json",
            "similar",
            "sled",
            "socket2",
            "tempfile",
            "thiserror",
            "tokio",
            "tokio-rustls",
            "tokio-stream",
            "toml",
            "tonic*",
            "tower",
            "tracing",
            "tracing-subscriber",
            "zeroize",
        ],
        build: &[],
    },
    Layer {
        name: "aber-tests",
        inside: &["aber-proto", "aber-log", "aber-materializer", "aber-node"],
        outside: &[
            "anyhow",
            "blake3",
            "bytes",
            "clap",
            "expect-test",
            "futures",
            "prost",
            "proptest",
            "rustix",
            "serde_json",
            "tempfile",
            "thiserror",
            "tokio",
            "tokio-stream",
            "tonic*",
            "tracing",
            "tracing-subscriber",
        ],
        build: &[],
    },
    Layer {
        name: "aber-tools",
        inside: &["aber-proto", "aber-log", "aber-materializer", "aber-node"],
        outside: &[
            "anyhow",
            "blake3",
            "bytes",
            "clap",
            "fastcdc",
            "http",
            "lz4_flex",
            "prost",
            "rustix",
            "serde",
            "serde_json",
            "tokio",
            "tonic",
            "tonic-prost",
        ],
        build: &[],
    },
];

/// What unit tests of any package may use besides.
const IN_TESTS: [&str; 4] = ["expect-test", "proptest", "tempfile", "tokio"];

/// Never in the lock file: a C library of the system, a build with cmake, a format with no owner.
const BANNED: [&str; 5] = [
    "openssl-sys",
    "aws-lc-sys",
    "native-tls",
    "bincode",
    "cmake",
];

/// Problems of `cargo metadata --no-deps` and of `Cargo.lock`.
#[must_use]
pub fn check(metadata: &Value, lock: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let packages = metadata.get("packages").and_then(Value::as_array);
    for package in packages.into_iter().flatten() {
        check_package(package, &mut problems);
    }
    if packages.is_none_or(Vec::is_empty) {
        problems.push(Problem::new("cargo metadata", "names no package"));
    }
    for name in lock_names(lock).filter(|name| BANNED.contains(name)) {
        problems.push(Problem::new("Cargo.lock", format!("{name} is banned")));
    }
    problems
}

fn check_package(package: &Value, problems: &mut Vec<Problem>) {
    let name = text(package, "name").unwrap_or_default();
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
        problems.push(Problem::new(name, "is not in the table of layers"));
        return;
    };
    let dependencies = package.get("dependencies").and_then(Value::as_array);
    for dependency in dependencies.into_iter().flatten() {
        let on = text(dependency, "name").unwrap_or_default();
        let kind = text(dependency, "kind").unwrap_or("normal");
        if !layer.may_use(on, kind) {
            let text = format!("{kind} dependency on {on}, which its layer does not allow");
            problems.push(Problem::new(name, text));
        }
    }
}

impl Layer {
    fn may_use(&self, on: &str, kind: &str) -> bool {
        if on.starts_with("aber-") {
            return self.inside.contains(&on);
        }
        match kind {
            "build" => names(self.build, on),
            "dev" => names(self.outside, on) || names(&IN_TESTS, on),
            _ => names(self.outside, on),
        }
    }
}

fn names(list: &[&str], name: &str) -> bool {
    list.iter().any(|known| match known.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => *known == name,
    })
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

fn lock_names(lock: &str) -> impl Iterator<Item = &str> {
    lock.lines()
        .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metadata(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let list: Vec<Value> = dependencies
            .iter()
            .map(|(name, kind)| json!({ "name": name, "kind": kind }))
            .collect();
        json!({ "packages": [{ "name": name, "dependencies": list }] })
    }

    fn texts(metadata: &Value, lock: &str) -> Vec<String> {
        check(metadata, lock)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_layer_may_use_what_is_below_it() {
        let uses = [
            ("aber-proto", None),
            ("openraft-rt", None),
            ("proptest", Some("dev")),
        ];
        assert_eq!(
            texts(&metadata("aber-log", &uses), "name = \"ring\"\n"),
            [""; 0]
        );
    }

    #[test]
    fn a_layer_may_not_use_what_is_above_it() {
        let found = texts(
            &metadata("aber-log", &[("aber-materializer", Some("dev"))]),
            "",
        );
        let want = "aber-log: dev dependency on aber-materializer, which its layer does not allow";
        assert_eq!(found, [want]);
    }

    #[test]
    fn a_stranger_from_outside_is_found() {
        let uses = [
            ("tonic", None),
            ("proptest", None),
            ("prost-build", Some("build")),
        ];
        assert_eq!(check(&metadata("aber-log", &uses), "").len(), 3);
    }

    #[test]
    fn a_package_without_a_row_is_found() {
        assert_eq!(
            texts(&metadata("aber-web", &[]), ""),
            ["aber-web: is not in the table of layers"]
        );
        assert_eq!(check(&json!({}), "").len(), 1);
    }

    #[test]
    fn a_banned_package_in_the_lock_file_is_found() {
        let lock = "[[package]]\nname = \"openssl-sys\"\nversion = \"1\"\n";
        assert_eq!(
            texts(&metadata("aber-proto", &[]), lock),
            ["Cargo.lock: openssl-sys is banned"]
        );
        assert!(check(&metadata("aber-proto", &[]), "name = \"openssl-system\"").is_empty());
    }

    #[test]
    fn layers_only_look_down() {
        for (i, layer) in LAYERS.iter().enumerate() {
            for below in layer.inside {
                let at = LAYERS.iter().position(|other| other.name == *below);
                assert!(at.is_some_and(|at| at < i), "{} uses {below}", layer.name);
            }
        }
    }
}
