// Package testenv gives tests a real Kubernetes API: kube-apiserver and etcd on
// loopback, with the CRDs of Capstan, of Cluster API and of the providers in
// dev/crds. There are no controllers: nothing acts on what a test writes, no
// owner reference cascades and a deleted Namespace stays Terminating.
//
// A package starts one API server for all its tests:
//
//	var env *testenv.Env
//
//	func TestMain(m *testing.M) { os.Exit(testenv.Run(m, &env)) }
//
//	func TestSomething(t *testing.T) {
//		namespace := env.Namespace(t)
//		a, err := apply.New(apply.Options{Config: env.Config("agent-of-" + namespace)})
//		before := env.Mark(t)
//		...
//		writes := testenv.Writes(env.Requests(t, "agent-of-"+namespace, before))
//	}
//
// Every request is in the audit log, so what something costs is counted where it
// arrives and not where it is sent: give what is measured a user of its own.
//
// The binaries come from KUBEBUILDER_ASSETS if that is set, else from bin/ in
// the root of the repository, where `make envtest` builds them. They end with
// the test binary, also when that is killed.
package testenv
