package kubeadm

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/blang/semver/v4"
	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/secret"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"capstan.dev/capstan/dev/internal/datacenter"
	"capstan.dev/capstan/dev/internal/workload"
)

// guests does what kubeadm and the kubelet do in the machines of kubeadm clusters, as far as it shows
// in the API of the workload cluster. What is a member of etcd, and the Nodes, are package datacenter's.
//
// KubeadmControlPlane cannot watch a workload cluster: what it misses at one look, it sees at the next,
// some 20 s later. So things are put there before it can look, not after.
type guests struct {
	client      client.Client
	cloud       *workload.Cloud
	datacenter  *datacenter.Datacenter
	authorities *authorities
	etcd        *etcd
	log         logr.Logger
}

// setupGuests adds the controller and the simulated etcd to mgr.
func setupGuests(mgr ctrl.Manager, opts Options) error {
	authorities := &authorities{}
	g := &guests{
		client: mgr.GetClient(), cloud: opts.Cloud, datacenter: opts.Datacenter,
		authorities: authorities, etcd: newEtcd(opts.Datacenter, authorities), log: opts.Log,
	}
	if err := mgr.Add(g.etcd); err != nil {
		return fmt.Errorf("simulated etcd: %w", err)
	}
	machines := source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		opts.Datacenter.Watch(func(_, cluster types.NamespacedName) { queue.Add(reconcile.Request{NamespacedName: cluster}) })
		return nil
	})
	if err := ctrl.NewControllerManagedBy(mgr).
		Named("kubeadm-guests").
		For(&clusterv1.Cluster{}).
		Watches(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(clusterOfAuthority)).
		WatchesRawSource(machines).
		WithOptions(controller.Options{MaxConcurrentReconciles: opts.Concurrency}).
		Complete(g); err != nil {
		return fmt.Errorf("controller of kubeadm guests: %w", err)
	}
	return nil
}

// clusterOfAuthority finds the Cluster of a Secret with a certificate authority.
func clusterOfAuthority(_ context.Context, s client.Object) []reconcile.Request {
	cluster := s.GetLabels()[clusterv1.ClusterNameLabel]
	if cluster == "" || s.GetName() != secret.Name(cluster, secret.ClusterCA) && s.GetName() != secret.Name(cluster, secret.EtcdCA) {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: s.GetNamespace(), Name: cluster}}}
}

// Reconcile brings the guests of one cluster up to date.
func (g *guests) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	cluster := &clusterv1.Cluster{}
	if err := g.client.Get(ctx, req.NamespacedName, cluster); apierrors.IsNotFound(err) {
		g.authorities.forget(req.NamespacedName)
		return reconcile.Result{}, nil
	} else if err != nil {
		return reconcile.Result{}, fmt.Errorf("guests: Cluster %s: %w", req, err)
	}
	if cluster.Spec.ControlPlaneRef.Kind != "KubeadmControlPlane" {
		return reconcile.Result{}, nil
	}
	vms := slices.DeleteFunc(g.datacenter.List(), func(vm datacenter.VM) bool {
		return vm.Cluster != req.NamespacedName || !vm.ControlPlane
	})
	if len(vms) == 0 {
		return reconcile.Result{}, nil // not begun, or over
	}
	kcp := &controlplanev1.KubeadmControlPlane{}
	if err := g.client.Get(ctx, types.NamespacedName{Namespace: cluster.Namespace, Name: cluster.Spec.ControlPlaneRef.Name}, kcp); err != nil {
		// Without it there is nobody to look either.
		return reconcile.Result{}, client.IgnoreNotFound(fmt.Errorf("guests of Cluster %s: %w", req, err))
	}
	of, ok, err := g.authoritiesOf(ctx, cluster, kcp)
	if err != nil || !ok {
		return reconcile.Result{}, err
	}
	if err := g.update(ctx, cluster, kcp, vms, of); err != nil {
		return reconcile.Result{}, fmt.Errorf("guests of Cluster %s: %w", req, err)
	}
	return reconcile.Result{}, nil
}

// authoritiesOf reads the certificate authorities of a cluster, once. ok is false while they are
// not there yet; they are an event when they come.
func (g *guests) authoritiesOf(ctx context.Context, cluster *clusterv1.Cluster, kcp *controlplanev1.KubeadmControlPlane) (of clusterAuthorities, ok bool, err error) {
	key := client.ObjectKeyFromObject(cluster)
	if of, ok = g.authorities.get(key); ok && of.uid == cluster.UID {
		return of, true, nil
	}
	validity := defaultValidity
	if days := kcp.Spec.KubeadmConfigSpec.ClusterConfiguration.CertificateValidityPeriodDays; days > 0 {
		validity = time.Duration(days) * 24 * time.Hour
	}
	of = clusterAuthorities{uid: cluster.UID}
	for purpose, authority := range map[secret.Purpose]**authority{secret.ClusterCA: &of.api, secret.EtcdCA: &of.etcd} {
		s := &corev1.Secret{}
		err := g.client.Get(ctx, types.NamespacedName{Namespace: key.Namespace, Name: secret.Name(key.Name, purpose)}, s)
		if apierrors.IsNotFound(err) {
			return of, false, nil
		} else if err != nil {
			return of, false, fmt.Errorf("certificate authority of Cluster %s: %w", key, err)
		}
		if *authority, err = newAuthority(s, validity); err != nil {
			return of, false, err
		}
	}
	if of.api == nil {
		return of, false, fmt.Errorf("Secret %s of Cluster %s has no key; a workload cluster cannot be simulated without",
			secret.Name(key.Name, secret.ClusterCA), key)
	}
	g.authorities.set(key, of)
	return of, true, nil
}

// update writes what kubeadm and the kubelets of the machines have to write.
func (g *guests) update(
	ctx context.Context, cluster *clusterv1.Cluster, kcp *controlplanev1.KubeadmControlPlane, vms []datacenter.VM, of clusterAuthorities,
) error {
	key := client.ObjectKeyFromObject(cluster)
	store := g.cloud.Cluster(key)
	store.OnPortForward(func(namespace, pod string, port int, conn net.Conn) {
		g.forward(key, types.NamespacedName{Namespace: namespace, Name: pod}, port, conn)
	})
	api := store.Client()
	if err := initialize(ctx, api, cluster, kcp); err != nil {
		return err
	}
	// Not earlier: from now on the API server may answer, and then all of the above has to be there.
	if err := g.datacenter.SetAuthority(key, of.api.certPEM, of.api.keyPEM); err != nil {
		return err
	}

	members := g.datacenter.Etcd(key)
	var nodes []controlPlaneNode
	for _, vm := range vms {
		if vm.Phase != datacenter.Running {
			continue
		}
		images, err := g.imagesOf(ctx, vm, kcp)
		if err != nil {
			return err
		}
		nodes = append(nodes, nodeOf(vm, members, images))
	}
	return keepStaticPods(ctx, api, staticPods(nodes, of.etcd == nil))
}

// imagesOf returns the images of the Kubernetes version of a machine, which may lag behind the control plane's.
func (g *guests) imagesOf(ctx context.Context, vm datacenter.VM, kcp *controlplanev1.KubeadmControlPlane) (images, error) {
	version := kcp.Spec.Version
	machine := &clusterv1.Machine{}
	err := g.client.Get(ctx, types.NamespacedName{Namespace: vm.Key.Namespace, Name: vm.Machine}, machine)
	if client.IgnoreNotFound(err) != nil {
		return images{}, fmt.Errorf("machine of %s: %w", vm.Key, err)
	}
	if err == nil && machine.Spec.Version != "" {
		version = machine.Spec.Version
	}
	parsed, err := semver.ParseTolerant(version)
	if err != nil {
		return images{}, fmt.Errorf("Kubernetes version of %s: %w", vm.Key, err)
	}
	return imagesFor(parsed, kcp.Spec.KubeadmConfigSpec.ClusterConfiguration), nil
}

// keepStaticPods makes the static Pods of the control plane those of want.
func keepStaticPods(ctx context.Context, api client.Client, want []*corev1.Pod) error {
	have := &corev1.PodList{}
	if err := api.List(ctx, have, client.InNamespace(metav1.NamespaceSystem), client.MatchingLabels(controlPlaneTier)); err != nil {
		return fmt.Errorf("static Pods: %w", err)
	}
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	for _, pod := range want {
		i := slices.IndexFunc(have.Items, func(p corev1.Pod) bool { return p.Name == pod.Name })
		if i < 0 {
			// An API server does not take a status with a new Pod.
			created := pod.DeepCopy()
			if err := api.Create(ctx, created); err != nil {
				return fmt.Errorf("static Pod %s: %w", pod.Name, err)
			}
			have.Items = append(have.Items, *created)
			i = len(have.Items) - 1
		}
		old := &have.Items[i]
		if len(old.Status.ContainerStatuses) > 0 && ready(old) == ready(pod) && old.Status.PodIP == pod.Status.PodIP {
			continue
		}
		changed := old.DeepCopy()
		changed.Status = pod.Status
		stamp(&changed.Status, now)
		if old.Status.StartTime != nil {
			changed.Status.StartTime = old.Status.StartTime
		}
		if err := api.Status().Patch(ctx, changed, client.MergeFrom(old)); err != nil {
			return fmt.Errorf("status of static Pod %s: %w", pod.Name, err)
		}
	}
	for i := range have.Items {
		pod := &have.Items[i]
		if pod.Annotations[corev1.MirrorPodAnnotationKey] == "" ||
			slices.ContainsFunc(want, func(w *corev1.Pod) bool { return w.Name == pod.Name }) {
			continue
		}
		if err := api.Delete(ctx, pod, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("static Pod %s: %w", pod.Name, err)
		}
	}
	return nil
}

// stamp fills in the times of a status that is new.
func stamp(status *corev1.PodStatus, now metav1.Time) {
	status.StartTime = &now
	for i := range status.Conditions {
		status.Conditions[i].LastTransitionTime = now
	}
	for i := range status.ContainerStatuses {
		if running := status.ContainerStatuses[i].State.Running; running != nil {
			running.StartedAt = now
		}
	}
}

// ready tells whether the Pod says so of itself.
func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// forward answers a connection to a static Pod: to etcd, and to the API server as far as its certificate.
func (g *guests) forward(cluster, pod types.NamespacedName, port int, conn net.Conn) {
	if node, ok := nodeOfPod(pod, componentEtcd); ok && port == etcdClientPort {
		g.etcd.handle(cluster, node, conn)
		return
	}
	defer func() { _ = conn.Close() }()
	node, ok := nodeOfPod(pod, componentAPIServer)
	of, known := g.authorities.get(cluster)
	if !ok || !known {
		return
	}
	cert, err := of.api.serving(componentAPIServer, node)
	if err != nil {
		g.log.Error(err, "an API server has no certificate to show", "cluster", cluster)
		return
	}
	// Who came for the certificate has it after the handshake; there is nothing else to be had.
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_ = tls.Server(conn, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*cert}}).Handshake()
}
