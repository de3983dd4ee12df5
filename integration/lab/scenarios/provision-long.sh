# The scenario provision with delays from 0.1 to 5 s
# group: main
# order: 76
# needs: product
# long: yes
# limit: 600
export DELAYS="100 1000 5000"
. /lab/scenarios/provision.sh
