# The scenario provision on 1, 4 and 8 GPUs, with delays from 0.1 to 5 s
# group: main
# order: 76
# needs: product
# long: yes
# limit: 2100
export DELAYS="100 1000 5000" GPUS="1 4 8"
. /lab/scenarios/provision.sh
