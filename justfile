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

# Years of the schedule in virtual time, from the seeds FROM to TO (without TO): `just simulate 100 200`; the gate runs three.
simulate FROM TO:
    ECHOPILOT_SIMULATE={{FROM}}..{{TO}} cargo test --release -p echopilot-actors --lib -- simulation::over --nocapture
