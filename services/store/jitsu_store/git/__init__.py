"""Git's formats, and one handle on a repository: what this folder knows is Git's alone, nothing of it is Jitsu's."""
