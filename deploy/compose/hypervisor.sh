# Puts the container's interface on a bridge, which takes its address over: mock guests are on the containers' network.
set -e
if [ ! -e /sys/class/net/jitsu0 ]; then
  address=$(ip -4 -o address show dev eth0 | awk '{print $4}')
  gateway=$(ip route show default | awk '{print $3}')
  ip link add jitsu0 address "$(cat /sys/class/net/eth0/address)" type bridge forward_delay 0
  ip address del "$address" dev eth0
  ip link set eth0 master jitsu0
  ip address add "$address" dev jitsu0
  ip link set jitsu0 up
  ip route add default via "$gateway"
fi
umask 0  # vmd connects as a user of its own
exec python3 -m jitsu_vmd.hypervisors.mock.host --directory /run/machine --bridge jitsu0 --stay
