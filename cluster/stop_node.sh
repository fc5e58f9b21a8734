# Run by `wsss cluster down` on each machine of a cluster: stops Ray, and removes what `ray up` left there.
# Variables: TOKEN_SUM, the SHA-256 of the cluster's token; MARK, a file that exists only in the caller's own home;
# KEEP=1 stops Ray alone. Prints a line for everything that it did.
[ -r ~/wsss/cluster/node_environment.sh ] && . ~/wsss/cluster/node_environment.sh

remove() {
  [ -e "$1" ] || return 0
  if rm -rf "$1"; then echo "removed $1"; else echo "FAILED: cannot remove $1"; fi
}

if command -v ray > /dev/null; then
  if ray stop --grace-period 30 > /dev/null 2>&1; then echo "stopped Ray"; else echo "FAILED: ray stop"; fi
else
  echo "FAILED: there is no command ray; processes of Ray may still run"
fi
command -v wsss > /dev/null && wsss cluster mlflow --stop | grep -v '^no MLflow server'
[ "$KEEP" = 1 ] && exit 0

if [ -e "$MARK" ]; then
  echo "kept ~/.ray: it is the folder of the machine that this command was called on"
else
  if [ "$(sha256sum < ~/.ray/auth_token 2> /dev/null | cut -d' ' -f1)" = "$TOKEN_SUM" ]; then
    remove ~/.ray/auth_token
  elif [ -e ~/.ray/auth_token ]; then
    echo "kept ~/.ray/auth_token: it is another one"
  fi
  remove ~/.ray/tls
fi
remove ~/ray_bootstrap_key.pem
remove ~/ray_bootstrap_config.yaml
case "${RAY_TMPDIR:-}" in "" | / | /tmp | /nonexistent) ;; *) remove "$RAY_TMPDIR" ;; esac
if grep -qs wsss/cluster/node_environment.sh ~/.bashrc; then
  sed -i '\#wsss/cluster/node_environment.sh#d' ~/.bashrc && echo "removed its line from ~/.bashrc"
fi
for left in ~/wsss ~/wsss-env; do [ -e "$left" ] && echo "stays: $left"; done
exit 0
