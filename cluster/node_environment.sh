# The settings of Ray on a node of a cluster, in one place: sourced by the start commands of ray_cluster.yaml,
# cluster/onprem.yaml and cluster/slurm/, and by the login shells of the nodes, so that `ray status` finds the cluster.

# Every request needs the token of ~/.ray/auth_token, whatever the default of this version of Ray is.
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0

# Ray makes its session folder writable for everybody, so it is in a folder that only this user can enter. On the
# node's own disk: a home folder may be shared by all nodes. Short, since a socket's path has at most 107 bytes.
export RAY_TMPDIR="${WSSS_RAY_FOLDER:-/tmp/wsss-ray-$(id -u)}"
mkdir -m 0700 "$RAY_TMPDIR" 2>/dev/null
if [ -L "$RAY_TMPDIR" ] || [ ! -O "$RAY_TMPDIR" ] || ! chmod 0700 "$RAY_TMPDIR"; then
  echo "wsss: $RAY_TMPDIR belongs to another user or is a link; remove it, or set WSSS_RAY_FOLDER to another folder" >&2
  export RAY_TMPDIR=/nonexistent # nothing starts there
fi

# Ray's Prometheus ports answer without a token on all interfaces, and Ray has no setting for their address, so they
# are off. To use Prometheus, remove these lines: the ports are 8074 on every node, and 44217 and 44227 on the head.
export RAY_enable_metrics_collection=0 # nodes
export AUTOSCALER_METRIC_PORT=-1 # autoscaler: not a port, so that its server does not start; its log says so
export DASHBOARD_METRIC_PORT=-1  # dashboard: the same

# The MLflow server of the head, for its jobs and shells; MLFLOW_TRACKING_URI in a job's environment names another one.
if [ -s "$RAY_TMPDIR/mlflow_address" ]; then
  export MLFLOW_TRACKING_URI="$(cat "$RAY_TMPDIR/mlflow_address")"
fi

# The packages, where setup_commands made an environment of its own.
if [ -d "$HOME/wsss-env/bin" ]; then
  case ":$PATH:" in *":$HOME/wsss-env/bin:"*) ;; *) export PATH="$HOME/wsss-env/bin:$PATH" ;; esac
fi

# A process for a caller at ray://… starts within this many seconds; on a busy head Ray's 30 are too few.
export RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S=180

# TLS between the nodes, if the folder ~/.ray, which is copied to all nodes, holds a certificate authority
# (wsss cluster certificates). The start commands make the node's own certificate, for its addresses.
if [ -e "$HOME/.ray/tls/ca.crt" ]; then
  export RAY_USE_TLS=1
  export RAY_TLS_CA_CERT="$HOME/.ray/tls/ca.crt"
  export RAY_TLS_SERVER_CERT="$RAY_TMPDIR/tls/node.crt"
  export RAY_TLS_SERVER_KEY="$RAY_TMPDIR/tls/node.key"
fi
