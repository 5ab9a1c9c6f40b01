package kubeadm

import (
	"context"
	"crypto/tls"
	"fmt"
	"hash/fnv"
	"net"
	"slices"
	"sync"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/dev/internal/datacenter"
)

const (
	etcdVersion    = "3.6.4"
	etcdClientPort = 2379
	etcdPeerPort   = 2380
)

// machines is what etcd needs of package datacenter, which keeps the membership.
type machines interface {
	Get(vm types.NamespacedName) (datacenter.VM, bool)
	Etcd(cluster types.NamespacedName) []datacenter.Member
	RemoveMember(cluster types.NamespacedName, id uint64) error
	MoveLeader(cluster types.NamespacedName, id uint64) error
}

// etcd answers for every etcd member of every kubeadm cluster what KubeadmControlPlane asks: who is a
// member, who leads, are there alarms, remove one, let another lead. There are no keys and values in it.
type etcd struct {
	etcdserverpb.UnimplementedClusterServer
	etcdserverpb.UnimplementedMaintenanceServer
	machines    machines
	authorities *authorities
	conns       *handedOver
}

func newEtcd(m machines, a *authorities) *etcd {
	return &etcd{machines: m, authorities: a, conns: newHandedOver()}
}

// Start serves until ctx ends (manager.Runnable).
func (e *etcd) Start(ctx context.Context) error {
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS12, GetConfigForClient: e.tlsConfig,
	})))
	etcdserverpb.RegisterClusterServer(server, e)
	etcdserverpb.RegisterMaintenanceServer(server, e)
	defer context.AfterFunc(ctx, server.Stop)()
	if err := server.Serve(e.conns); err != nil && ctx.Err() == nil {
		return fmt.Errorf("simulated etcd: %w", err)
	}
	return nil
}

// handle takes a connection to the member on a node. One that does not run refuses it.
func (e *etcd) handle(cluster types.NamespacedName, node string, conn net.Conn) {
	running := slices.ContainsFunc(e.machines.Etcd(cluster), func(m datacenter.Member) bool {
		return m.Hostname == node && m.Healthy
	})
	if !running || !e.conns.give(memberConn{Conn: conn, at: memberAddr{cluster: cluster, node: node}}) {
		_ = conn.Close()
	}
}

// tlsConfig is what the member at the other end of the connection shows and asks for.
func (e *etcd) tlsConfig(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	at, ok := hello.Conn.RemoteAddr().(memberAddr)
	if !ok {
		return nil, fmt.Errorf("connection to etcd from %s was not forwarded to a Pod", hello.Conn.RemoteAddr())
	}
	of, ok := e.authorities.get(at.cluster)
	if !ok || of.etcd == nil {
		return nil, fmt.Errorf("cluster %s has no certificate authority for etcd", at.cluster)
	}
	cert, err := of.etcd.serving(at.node, at.node)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{*cert},
		ClientCAs:    of.etcd.pool(),
		ClientAuth:   tls.RequireAndVerifyClientCert,
		NextProtos:   []string{"h2"},
	}, nil
}

// view is the cluster as the member sees it that was asked.
type view struct {
	cluster types.NamespacedName
	members []datacenter.Member
	self    datacenter.Member
	leader  uint64
}

// ask returns the view of the member at the other end of the call's connection. Without a quorum,
// everything that is asked here fails, as in etcd: it has to be agreed upon.
func (e *etcd) ask(ctx context.Context) (view, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return view{}, status.Error(codes.Internal, "call without a peer")
	}
	at, ok := p.Addr.(memberAddr)
	if !ok {
		return view{}, status.Error(codes.Internal, "call of "+p.Addr.String()+" was not forwarded to a Pod")
	}
	v := view{cluster: at.cluster, members: e.machines.Etcd(at.cluster)}
	i := slices.IndexFunc(v.members, func(m datacenter.Member) bool { return m.Hostname == at.node })
	if i < 0 || !v.members[i].Healthy {
		return view{}, rpctypes.ErrGRPCStopped
	}
	v.self = v.members[i]
	if !hasQuorum(v.members) {
		return view{}, rpctypes.ErrGRPCNoLeader
	}
	for _, m := range v.members {
		if m.Leader && m.Healthy {
			v.leader = m.ID
		}
	}
	if v.leader == 0 {
		// The leader has died, and those that are left elect another.
		if err := e.machines.MoveLeader(v.cluster, v.self.ID); err != nil {
			return view{}, rpctypes.ErrGRPCNoLeader
		}
		v.leader = v.self.ID
	}
	return v, nil
}

// hasQuorum tells whether more than half of the members are healthy.
func hasQuorum(members []datacenter.Member) bool {
	healthy := 0
	for _, m := range members {
		if m.Healthy {
			healthy++
		}
	}
	return healthy > len(members)/2
}

func (v view) header() *etcdserverpb.ResponseHeader {
	id := fnv.New64a()
	_, _ = id.Write([]byte(v.cluster.String()))
	return &etcdserverpb.ResponseHeader{ClusterId: id.Sum64(), MemberId: v.self.ID, Revision: 1, RaftTerm: 2}
}

// Status tells who leads.
func (e *etcd) Status(ctx context.Context, _ *etcdserverpb.StatusRequest) (*etcdserverpb.StatusResponse, error) {
	v, err := e.ask(ctx)
	if err != nil {
		return nil, err
	}
	const size = 4 << 20
	return &etcdserverpb.StatusResponse{
		Header: v.header(), Version: etcdVersion, Leader: v.leader,
		DbSize: size, DbSizeInUse: size, RaftIndex: 1, RaftAppliedIndex: 1, RaftTerm: 2,
	}, nil
}

// Alarm has none to tell of.
func (e *etcd) Alarm(ctx context.Context, _ *etcdserverpb.AlarmRequest) (*etcdserverpb.AlarmResponse, error) {
	v, err := e.ask(ctx)
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.AlarmResponse{Header: v.header()}, nil
}

// MoveLeader is for the leader only.
func (e *etcd) MoveLeader(ctx context.Context, r *etcdserverpb.MoveLeaderRequest) (*etcdserverpb.MoveLeaderResponse, error) {
	v, err := e.ask(ctx)
	if err != nil {
		return nil, err
	}
	if v.self.ID != v.leader {
		return nil, rpctypes.ErrGRPCNotLeader
	}
	if err := e.machines.MoveLeader(v.cluster, r.TargetID); err != nil {
		return nil, rpctypes.ErrGRPCBadLeaderTransferee
	}
	return &etcdserverpb.MoveLeaderResponse{Header: v.header()}, nil
}

// MemberList lists all members.
func (e *etcd) MemberList(ctx context.Context, _ *etcdserverpb.MemberListRequest) (*etcdserverpb.MemberListResponse, error) {
	v, err := e.ask(ctx)
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.MemberListResponse{Header: v.header(), Members: e.list(v.members)}, nil
}

// MemberRemove removes a member, unless too few of the others are healthy to be a quorum.
func (e *etcd) MemberRemove(ctx context.Context, r *etcdserverpb.MemberRemoveRequest) (*etcdserverpb.MemberRemoveResponse, error) {
	v, err := e.ask(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(v.members, func(m datacenter.Member) bool { return m.ID == r.ID })
	if i < 0 {
		return nil, rpctypes.ErrGRPCMemberNotFound
	}
	rest := slices.Delete(slices.Clone(v.members), i, i+1)
	if !hasQuorum(rest) {
		return nil, rpctypes.ErrGRPCMemberNotEnoughStarted
	}
	if err := e.machines.RemoveMember(v.cluster, r.ID); err != nil {
		return nil, rpctypes.ErrGRPCMemberNotFound
	}
	return &etcdserverpb.MemberRemoveResponse{Header: v.header(), Members: e.list(rest)}, nil
}

// list gives members in the form of the protocol. kubeadm names a member after its node.
func (e *etcd) list(members []datacenter.Member) []*etcdserverpb.Member {
	var out []*etcdserverpb.Member
	for _, m := range members {
		host := m.Hostname
		if vm, ok := e.machines.Get(m.VM); ok && len(vm.Addresses) > 0 {
			host = vm.Addresses[0]
		}
		out = append(out, &etcdserverpb.Member{
			ID: m.ID, Name: m.Hostname,
			PeerURLs:   []string{fmt.Sprintf("https://%s", net.JoinHostPort(host, fmt.Sprint(etcdPeerPort)))},
			ClientURLs: []string{fmt.Sprintf("https://%s", net.JoinHostPort(host, fmt.Sprint(etcdClientPort)))},
		})
	}
	return out
}

// memberAddr is the address of a member: who a connection was meant for.
type memberAddr struct {
	cluster types.NamespacedName
	node    string
}

func (memberAddr) Network() string  { return "portforward" }
func (a memberAddr) String() string { return fmt.Sprintf("%s etcd-%s", a.cluster, a.node) }

// memberConn is a connection that knows the member. TLS and gRPC pass on the remote address and
// nothing else, so that is where it stands.
type memberConn struct {
	net.Conn
	at memberAddr
}

func (c memberConn) RemoteAddr() net.Addr { return c.at }

// handedOver is a net.Listener for connections that come from elsewhere.
type handedOver struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHandedOver() *handedOver {
	return &handedOver{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// give hands over a connection, if somebody still accepts.
func (h *handedOver) give(conn net.Conn) bool {
	select {
	case h.conns <- conn:
		return true
	case <-h.closed:
		return false
	}
}

// Accept implements net.Listener.
func (h *handedOver) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handedOver) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// Addr implements net.Listener.
func (h *handedOver) Addr() net.Addr { return memberAddr{} }
