# Gives a replica a name of its own, the same after a restart, and a port for its metrics: replicas share their addresses and
# the host's name. The layer that the container writes to is its own. The port is the first free one; two that start at once
# may find the same, then one of them is started again and finds the next.
own=$(sed -n 's/.* \/ .*upperdir=\([^,]*\).*/\1/p' /proc/1/mountinfo | sha256sum | tr -d g-z)
port=$((9110 + 0x$(echo "$own" | cut -c1) % 4))
is_taken() { grep -qi ":$(printf '%04X' "$1") 00000000:0000 0A" /proc/net/tcp; }
for each in $port 9110 9111 9112 9113; do
  if ! is_taken "$each"; then port=$each; break; fi
done
while is_taken "$port"; do port=$((port + 1)); done
JITSU_DNS_REPLICA=dns-$(echo "$own" | cut -c1-8)
JITSU_DNS_METRICS=0.0.0.0:$port
export JITSU_DNS_REPLICA JITSU_DNS_METRICS
echo "JITSU_DNS_METRICS=$JITSU_DNS_METRICS" >/tmp/replica  # for the health check
exec "$@"
