# The words for what one does here; each is one plain command.

# The daemon with a demo business in the sandbox.
demo:
    cargo run --release -- run --demo

# Everything the gate checks.
test:
    ./integration-tests/run

# The fast loop: formatting, lints, unit tests.
quick:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo test -p echopilot-actors

# Figures against peers and physical limits.
bench:
    ./benches/run
