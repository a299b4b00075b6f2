"""Where the store touches the outside. Decisions are in rules/."""

import os
import ssl

if not any(ssl.get_default_verify_paths()[:2]):
    # pygit2 cannot be imported where there are no certificates; they are needed for remotes on https only.
    os.environ["SSL_CERT_DIR"] = os.path.dirname(__file__)
