//! The `aber` binary: daemon and command line.

fn main() -> std::process::ExitCode {
    aber_node::cli::main()
}
