package host

// For tests from outside.
var FindBinaries = findBinaries

func (b binaries) Kubernetes() string { return b.kubernetes }
func (b binaries) Etcd() string       { return b.etcdVersion }
