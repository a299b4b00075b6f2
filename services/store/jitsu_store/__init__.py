"""The state tree of Jitsu: a Git repository behind an rpc and a feed."""
