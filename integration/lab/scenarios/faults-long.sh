# The scenario faults with 20 rounds of killing the daemon
# group: restart-long
# order: 10
# needs: product
# long: yes
# limit: 1500
export ROUNDS=20
. /lab/scenarios/faults.sh
