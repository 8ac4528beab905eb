# Makes the users of the purposes with the store's own tool, in the store's container (deploy/store_keys.py).
#   sh store_users.sh make | forget      one line for each user on standard input: name, access key, secret key, policy
# make: prints the kind of the store, and for Ceph the user who owns the bucket. forget: removes other keys of these users.
set -eu
minio() { mc --config-dir /tmp/mc --quiet "$@" >&2 </dev/null; }

if command -v radosgw-admin >/dev/null; then kind=ceph
elif command -v mc >/dev/null; then
  kind=minio
  # Only users with a policy attached, no service accounts: CVE-2025-62506 (docs/decisions/0037-keys-per-purpose-and-the-object-store.md).
  export MC_HOST_store="http://$MINIO_ROOT_USER:$MINIO_ROOT_PASSWORD@127.0.0.1:9000"
else
  echo "this store has neither radosgw-admin nor mc" >&2
  exit 1
fi

while read -r user access secret policy; do
  case "$kind $1" in
    "ceph make")
      key="--access-key=$access --secret-key=$secret"
      if radosgw-admin user info --uid="$user" >/dev/null 2>&1
      then radosgw-admin key create --uid="$user" --key-type=s3 $key >/dev/null
      else radosgw-admin user create --uid="$user" --display-name="$user" --max-buckets=-1 $key >/dev/null
      fi ;;
    "ceph forget")
      for old in $(radosgw-admin user info --uid="$user" | sed -n 's/.*"access_key": "\([^"]*\)".*/\1/p'); do
        [ "$old" = "$access" ] || radosgw-admin key rm --uid="$user" --key-type=s3 --access-key="$old" >/dev/null
      done ;;
    "minio make")
      printf %s "$policy" >/tmp/policy.json
      minio admin policy create store "$user" /tmp/policy.json
      minio admin user add store "$access" "$secret"
      minio admin policy attach store "$user" --user "$access" || true ;;  # fails where it is attached; the keys are tried
    "minio forget")
      mc --config-dir /tmp/mc --json admin user list store | while read -r line; do  # its image may lack sed
        case $line in *"\"policyName\":\"$user\""*) ;; *) continue ;; esac
        old=${line#*\"accessKey\":\"} old=${old%%\"*}
        [ "$old" = "$access" ] || minio admin user remove store "$old"
      done ;;
  esac
done

if [ "$1" = make ]; then
  owner=
  [ $kind != ceph ] ||
    owner=$(radosgw-admin user info --access-key="$MINIO_ROOT_USER" | sed -n 's/.*"user_id": "\([^"]*\)".*/\1/p')
  echo "$kind $owner"
fi
