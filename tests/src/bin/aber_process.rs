//! The `aber` binary once more, so that tests of real processes always run the code they were built
//! with: cargo builds a package's own binaries for its tests, and no others.

fn main() -> std::process::ExitCode {
    aber_node::cli::main()
}
