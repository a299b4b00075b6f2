"""What --help has besides docstrings: groups of commands, two examples of each, pages, exit statuses, words."""

from __future__ import annotations

from dataclasses import dataclass

LOOK, CHANGE, BRANCHES, ADMINISTRATION = (
    "Look",
    "Change",
    "Branches and other repositories",
    "Administration",
)
GROUPS = (LOOK, CHANGE, BRANCHES, ADMINISTRATION)

EXIT_STATUS = {
    "0": "What was asked for is done, and nothing is wrong.",
    "1": "It could not be done, or was refused or declined; or what was looked at is not well (check, doctor, status).",
    "2": "The command line, jitsu.toml or the environment is wrong. Nothing was changed.",
    "3": "`jitsu is-ready`: the VM is not ready.",
    "130": "Ctrl-C ended it.",
}
"""Of `jitsu`; `jitsu up` may also end with the status of a service (settings/service_help.py)."""
WORDS = (
    ("NAME", "A VM: its name, its UUID or one of its DNS names. For dig: any DNS name."),
    (
        "PATH",
        "Part of the state: VM.KEY such as www.ttl, a VM, or a path such as jitsu/vm/UUID/ip. `jitsu tree` lists.",
    ),
    ("BRANCH", "A branch of the state; master is the one that runs. A REVISION is a branch or a commit."),
    ("REMOTE", "Another Git repository: a path or an address, as Git takes it. The store connects to it."),
)
TOP_EXAMPLES = (
    ("jitsu up", "Try it: run everything here with three names to look up, on a hypervisor that is only pretended."),
    ("jitsu status", "Show what runs, and whether every part of the suite answers."),
)
PAGE = "README.md, docs/reference/commands.md, and `jitsu COMMAND --help`"


@dataclass(frozen=True)
class More:
    """What the help of a command has besides its docstring and its options."""

    group: str
    page: str
    examples: tuple[tuple[str, str], ...]


COMMANDS = {
    "status": More(
        LOOK,
        "docs/how-to/operate.md",
        (
            (
                "jitsu status www",
                "Show everything about the VM www: its latest summons and changes, its configuration.",
            ),
            ("jitsu status --state ready --sort queries", "Show the VMs that run, the one with most queries first."),
        ),
    ),
    "is-ready": More(
        LOOK,
        "docs/how-to/operate.md",
        (
            ("jitsu is-ready www", "Find out, in a script, whether the VM www is ready; it is not started."),
            ("jitsu is-ready www --wait 30", "Wait up to 30 seconds until somebody's query has made it ready."),
        ),
    ),
    "top": More(
        LOOK,
        "docs/tutorials/web-tour.md",
        (
            ("jitsu top", "Show every VM on one screen, and start and stop them there."),
            ("jitsu top failed", "Begin with those that have failed."),
        ),
    ),
    "why": More(
        LOOK,
        "docs/how-to/still-up.md",
        (
            ("jitsu why www", "Show who woke www, what keeps it up now, and when it stops."),
            ("jitsu why www --json", "The same facts for a script."),
        ),
    ),
    "forget-clients": More(
        ADMINISTRATION,
        "docs/explanation/security.md",
        (
            ("jitsu forget-clients", "Delete what is recorded of clients, boots and stops."),
            ("jitsu forget-clients www", "Delete what is recorded of www only."),
        ),
    ),
    "trace": More(
        LOOK,
        "docs/explanation/how-it-works.md",
        (
            ("jitsu trace www", "Show where the time went in the latest starts of www."),
            ("jitsu trace -n 50 --json", "The latest 50 of all VMs, for a script."),
        ),
    ),
    "dig": More(
        LOOK,
        "docs/explanation/dns.md",
        (
            ("jitsu dig www.example.org", "Ask each replica for the address; a VM that is off stays off."),
            ("jitsu dig www.example.org AAAA --summon", "Ask for an IPv6 address, even if that starts the VM."),
        ),
    ),
    "tree": More(
        LOOK,
        "docs/explanation/store.md",
        (
            ("jitsu tree www", "Show everything that is configured of www."),
            ("jitsu tree jitsu/stats --json", "Print all statistics for a script."),
        ),
    ),
    "get": More(
        LOOK,
        "docs/explanation/store.md",
        (
            ("jitsu get www.ttl", "Print how long answers for www may be kept."),
            ("jitsu get www.memory --branch try", "Print a value as it is on another branch."),
        ),
    ),
    "log": More(
        LOOK,
        "docs/explanation/store.md",
        (
            ("jitsu log", "Show the latest 20 changes, by whom and when."),
            ("jitsu log www -n 5", "Show the latest 5 changes of www."),
        ),
    ),
    "watch": More(
        LOOK,
        "docs/explanation/store.md",
        (
            ("jitsu watch www", "Print each change of www as it is made, until Ctrl-C."),
            ("jitsu watch jitsu/vm --json", "Print a line of JSON for each change of a VM."),
        ),
    ),
    "export": More(
        LOOK,
        "docs/reference/configuration.md",
        (
            ("jitsu export", "Print all VMs as sections of a jitsu.toml."),
            ("jitsu export --branch try", "Print the VMs as they are on another branch."),
        ),
    ),
    "set": More(
        CHANGE,
        "docs/reference/changes.md",
        (
            ("jitsu set www.ttl 30", "From now on answers for www may be kept for 30 seconds."),
            ("jitsu set www.memory 512MiB --message 'needs more'", "Change a size, and say why in the history."),
        ),
    ),
    "unset": More(
        CHANGE,
        "docs/reference/changes.md",
        (
            ("jitsu unset www.wait_for_port", "Remove a key, so that its default counts again."),
            ("jitsu unset www --dry-run", "Show what it would do to remove the VM www."),
        ),
    ),
    "apply": More(
        CHANGE,
        "docs/reference/changes.md",
        (
            ("jitsu apply jitsu.toml --dry-run", "Show which VMs the file adds, changes and removes."),
            ("jitsu apply dns=www.example.org,ip=192.0.2.7,name=www", "Add or change one VM; the others stay."),
        ),
    ),
    "discover": More(
        LOOK,
        "docs/how-to/labels.md",
        (
            ("jitsu discover", "Show what the hypervisors have and nobody has configured."),
            ("jitsu discover --all --json", "All machines, for a script."),
        ),
    ),
    "add": More(
        CHANGE,
        "docs/how-to/labels.md",
        (
            ("jitsu add web --dns web.example.org --dry-run", "Show the section that the machine web would get."),
            (
                "jitsu add web --dns web.example.org --ttl 30",
                "Have the machine web started when its name is looked up.",
            ),
        ),
    ),
    "start": More(
        CHANGE,
        "docs/how-to/operate.md",
        (
            ("jitsu start www", "Start the VM www now, and wait until it is ready."),
            ("jitsu start www --discard-saved-state", "Boot it from its disk, and delete what was suspended of it."),
        ),
    ),
    "stop": More(
        CHANGE,
        "docs/how-to/operate.md",
        (
            ("jitsu stop www", "Stop the VM www now, whoever uses it; the next query starts it again."),
            ("jitsu stop www.example.org", "The same by a DNS name."),
        ),
    ),
    "hold": More(
        CHANGE,
        "docs/how-to/operate.md",
        (
            ("jitsu hold www --for 2h --reason 'new disk'", "For two hours, leave www as it is."),
            ("jitsu hold --release", "Let all VMs start and stop automatically again."),
        ),
    ),
    "keep": More(
        CHANGE,
        "docs/how-to/operate.md",
        (
            ("jitsu keep www 2h --reason demo", "Start www, and keep it up for two hours, used or not."),
            ("jitsu keep www --release", "Let it be stopped again when it is idle."),
        ),
    ),
    "diff": More(
        BRANCHES,
        "docs/explanation/store.md",
        (
            ("jitsu diff master try", "Show in what the branch try differs from what runs."),
            ("jitsu diff master try www --json", "The same for one VM and for a script."),
        ),
    ),
    "branch": More(
        BRANCHES,
        "docs/explanation/store.md",
        (
            ("jitsu branch try", "Make a branch from what runs now."),
            ("jitsu branch", "List all branches."),
        ),
    ),
    "merge": More(
        BRANCHES,
        "docs/explanation/store.md",
        (
            ("jitsu merge try --dry-run", "Show what merging the branch try would do."),
            ("jitsu merge try", "Make the changes of the branch try in what runs."),
        ),
    ),
    "push": More(
        BRANCHES,
        "docs/how-to/operate.md",
        (
            ("jitsu push ssh://git@backup.example.org/srv/jitsu.git", "Send the history to another machine."),
            ("jitsu push /srv/jitsu.git --branch try", "Send another branch to a repository on this machine."),
        ),
    ),
    "pull": More(
        BRANCHES,
        "docs/explanation/store.md",
        (
            ("jitsu pull /srv/jitsu.git --dry-run", "Show what the other repository would change here."),
            ("jitsu pull /srv/jitsu.git", "Fetch its changes, and merge them after asking."),
        ),
    ),
    "up": More(
        ADMINISTRATION,
        "README.md and docs/how-to/operate.md",
        (
            ("jitsu up", "Run a demonstration; it needs no privileges and no configuration."),
            ("jitsu up --config jitsu.toml --persistdb state.git", "Run the file's VMs, and keep the state."),
        ),
    ),
    "check": More(
        ADMINISTRATION,
        "docs/reference/configuration.md",
        (
            ("jitsu check jitsu.toml", "Say what is wrong with a file before it is used."),
            ("jitsu check jitsu.toml --no-hypervisor --json", "The same for a script on another machine."),
        ),
    ),
    "doctor": More(
        ADMINISTRATION,
        "docs/how-to/operate.md",
        (
            ("jitsu doctor", "Say what is wrong with this machine and the suite, and what to do about it."),
            ("jitsu doctor --internet --bundle jitsu.tar.gz", "Look at delegations too, and pack it for who helps."),
        ),
    ),
    "keys": More(
        ADMINISTRATION,
        "docs/how-to/operate.md",
        (
            ("jitsu keys init /etc/jitsu/keys", "Make all keys that this machine needs."),
            ("jitsu keys list /etc/jitsu/keys", "Show which keys are known, and which secret ones are here."),
        ),
    ),
    "keys init": More(
        ADMINISTRATION,
        "docs/how-to/operate.md",
        (
            ("jitsu keys init /etc/jitsu/keys", "Make a key pair for each service and for operators."),
            ("jitsu keys init keys", "The same in a directory of your own, to try it."),
        ),
    ),
    "keys list": More(
        ADMINISTRATION,
        "docs/how-to/operate.md",
        (
            ("jitsu keys list /etc/jitsu/keys", "Show which keys are known."),
            ("jitsu keys list /etc/jitsu/keys --json", "The same for a script."),
        ),
    ),
    "keys add": More(
        ADMINISTRATION,
        "docs/how-to/operate.md",
        (
            ("jitsu keys add /etc/jitsu/keys dns.london /tmp/london", "Make a key for a DNS server in London."),
            ("jitsu keys add /etc/jitsu/keys operator.alice /tmp/alice", "Make a key for a person."),
        ),
    ),
    "keys rotate": More(
        ADMINISTRATION,
        "docs/how-to/operate.md",
        (
            ("jitsu keys rotate /etc/jitsu/keys store", "Give the store a new key; the one before still counts."),
            ("jitsu keys rotate /etc/jitsu/keys operator", "The same for operators."),
        ),
    ),
    "keys drop": More(
        ADMINISTRATION,
        "docs/how-to/operate.md",
        (
            ("jitsu keys drop /etc/jitsu/keys store.before", "Refuse the key that the store had before."),
            ("jitsu keys drop /etc/jitsu/keys dns.london", "Refuse the DNS server in London from now on."),
        ),
    ),
    "token": More(
        ADMINISTRATION,
        "docs/how-to/web.md",
        (
            ("jitsu token create alice --role operator", "Let alice use the API, and print her token."),
            ("jitsu token list", "Show which tokens count."),
        ),
    ),
    "token create": More(
        ADMINISTRATION,
        "docs/how-to/web.md",
        (
            ("jitsu token create alice --role operator", "Let alice look and change, for 90 days."),
            (
                "jitsu token create screen --expires never",
                "Let a screen in the hall look for ever.",
            ),
        ),
    ),
    "token list": More(
        ADMINISTRATION,
        "docs/how-to/web.md",
        (
            ("jitsu token list", "Show whose tokens count, and when they expire."),
            ("jitsu token list --json", "The same for a script."),
        ),
    ),
    "token revoke": More(
        ADMINISTRATION,
        "docs/how-to/web.md",
        (
            ("jitsu token revoke alice", "Refuse the token of alice from now on."),
            ("jitsu token revoke screen", "Let the screen in the hall look no longer."),
        ),
    ),
}
"""By command, in the order in which --help lists them."""
