"""Settings: jitsu.toml, the environment and flags become one typed value."""
