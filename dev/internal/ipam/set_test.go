package ipam

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
)

func TestParseSet(t *testing.T) {
	tests := map[string]struct {
		in   []string
		want string // spans, or the error
		n    int
	}{
		"single":             {[]string{"10.0.0.7"}, "[10.0.0.7-10.0.0.7]", 1},
		"range":              {[]string{"10.0.0.7-10.0.1.2"}, "[10.0.0.7-10.0.1.2]", 252},
		"network":            {[]string{"10.0.0.0/30"}, "[10.0.0.0-10.0.0.3]", 4},
		"host bits":          {[]string{"10.0.0.9/29"}, "[10.0.0.8-10.0.0.15]", 8},
		"touching are one":   {[]string{"10.0.0.5-10.0.0.9", "10.0.0.3", "10.0.0.4"}, "[10.0.0.3-10.0.0.9]", 7},
		"within another":     {[]string{"10.0.0.0/24", "10.0.0.5"}, "[10.0.0.0-10.0.0.255]", 256},
		"apart":              {[]string{"10.0.0.9", "10.0.0.1-10.0.0.2"}, "[10.0.0.1-10.0.0.2 10.0.0.9-10.0.0.9]", 3},
		"IPv6":               {[]string{"fe80::1-fe80::10"}, "[fe80::1-fe80::10]", 16},
		"more than an int":   {[]string{"2001:db8::/48"}, "[2001:db8::-2001:db8:0:ffff:ffff:ffff:ffff:ffff]", math.MaxInt},
		"last touches first": {[]string{"255.255.255.255", "::"}, "[255.255.255.255-255.255.255.255 ::-::]", 2},
		"nothing":            {nil, "[]", 0},
		"backwards":          {[]string{"10.0.0.9-10.0.0.1"}, `address range "10.0.0.9-10.0.0.1" does not end after its start`, 0},
		"two families":       {[]string{"10.0.0.9-fe80::1"}, `address range "10.0.0.9-fe80::1" does not end after its start`, 0},
		"no address":         {[]string{"10.0.0"}, `address "10.0.0": ParseAddr("10.0.0"): IPv4 address too short`, 0},
		"no prefix":          {[]string{"10.0.0.0/33"}, `network "10.0.0.0/33": netip.ParsePrefix("10.0.0.0/33"): prefix length out of range`, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			set, err := ParseSet(tt.in)
			if diff := cmp.Diff(tt.want, text(set, err)); diff != "" {
				t.Error(diff)
			}
			if n := set.Len(); n != tt.n {
				t.Errorf("Len is %d, not %d", n, tt.n)
			}
		})
	}
}

func text(set Set, err error) string {
	if err != nil {
		return err.Error()
	}
	out := "["
	for i, span := range set {
		if i > 0 {
			out += " "
		}
		out += span.String()
	}
	return out + "]"
}

func TestMinusAndContains(t *testing.T) {
	tests := map[string]struct {
		from, cut []string
		want      string
	}{
		"middle":     {[]string{"10.0.0.1-10.0.0.9"}, []string{"10.0.0.4-10.0.0.5"}, "[10.0.0.1-10.0.0.3 10.0.0.6-10.0.0.9]"},
		"ends":       {[]string{"10.0.0.1-10.0.0.9"}, []string{"10.0.0.0-10.0.0.1", "10.0.0.9"}, "[10.0.0.2-10.0.0.8]"},
		"everything": {[]string{"10.0.0.1-10.0.0.9"}, []string{"10.0.0.0/24"}, "[]"},
		"elsewhere":  {[]string{"10.0.0.1"}, []string{"10.0.0.2", "::/0"}, "[10.0.0.1-10.0.0.1]"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			from, err := ParseSet(tt.from)
			if err != nil {
				t.Fatal(err)
			}
			cut, err := ParseSet(tt.cut)
			if err != nil {
				t.Fatal(err)
			}
			rest := from.Minus(cut)
			if diff := cmp.Diff(tt.want, text(rest, nil)); diff != "" {
				t.Error(diff)
			}
			for _, span := range cut {
				if rest.Contains(span.From) || rest.Contains(span.To) {
					t.Errorf("%v still has an address of %v", rest, span)
				}
			}
			for _, span := range rest {
				if !rest.Contains(span.From) || !rest.Contains(span.To) {
					t.Errorf("%v does not contain the ends of %v", rest, span)
				}
			}
		})
	}
}

func TestFreeAndCount(t *testing.T) {
	use := func(addresses ...string) []ipamv1.IPAddress {
		var out []ipamv1.IPAddress
		for _, a := range addresses {
			out = append(out, ipamv1.IPAddress{Spec: ipamv1.IPAddressSpec{Address: a}})
		}
		return out
	}
	tests := map[string]struct {
		spec PoolSpec
		used []ipamv1.IPAddress
		free string
		want Counts
	}{
		"lowest": {
			PoolSpec{Addresses: []string{"10.0.0.20-10.0.0.29"}, Prefix: 24, Gateway: "10.0.0.1"},
			nil, "10.0.0.20", Counts{Total: 10, Free: 10},
		},
		"gap": {
			PoolSpec{Addresses: []string{"10.0.0.20-10.0.0.29"}, Prefix: 24},
			use("10.0.0.20", "10.0.0.22"), "10.0.0.21", Counts{Total: 10, Used: 2, Free: 8},
		},
		"neither network, gateway nor broadcast": {
			PoolSpec{Addresses: []string{"10.0.0.0/29"}, Prefix: 29, Gateway: "10.0.0.1"},
			nil, "10.0.0.2", Counts{Total: 5, Free: 5},
		},
		"reserved ones if wanted": {
			PoolSpec{Addresses: []string{"10.0.0.0/29"}, Prefix: 29, AllocateReservedIPAddresses: true},
			nil, "10.0.0.0", Counts{Total: 8, Free: 8},
		},
		"excluded": {
			PoolSpec{Addresses: []string{"10.0.0.20-10.0.0.29"}, Prefix: 24, ExcludedAddresses: []string{"10.0.0.20-10.0.0.24", "10.0.0.26"}},
			use("10.0.0.25"), "10.0.0.27", Counts{Total: 4, Used: 1, Free: 3},
		},
		"IPv6 has no broadcast": {
			PoolSpec{Addresses: []string{"fd00::/126"}, Prefix: 126},
			nil, "fd00::1", Counts{Total: 3, Free: 3},
		},
		"exhausted": {
			PoolSpec{Addresses: []string{"10.0.0.20"}, Prefix: 24},
			use("10.0.0.20"), errExhausted.Error(), Counts{Total: 1, Used: 1},
		},
		"out of range": {
			PoolSpec{Addresses: []string{"10.0.0.20-10.0.0.21"}, Prefix: 24},
			use("10.0.0.5"), "10.0.0.20", Counts{Total: 2, Used: 1, Free: 1, OutOfRange: 1},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			address, err := free(&tt.spec, tt.used)
			got := address.String()
			if err != nil {
				got = err.Error()
			}
			if got != tt.free {
				t.Errorf("free is %s, not %s", got, tt.free)
			}
			set, err := allocatable(&tt.spec)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&tt.want, count(set, tt.used)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	negative := int32(-1)
	tests := map[string]struct {
		spec PoolSpec
		want []string
	}{
		"good":          {PoolSpec{Addresses: []string{"10.0.0.20-10.0.0.29", "10.0.0.64/28"}, Prefix: 24, Gateway: "10.0.0.1"}, nil},
		"none":          {PoolSpec{Prefix: 24}, []string{"spec.addresses: Invalid value: null: addresses is required"}},
		"malformed":     {PoolSpec{Addresses: []string{"ten"}, Prefix: 24}, []string{`spec.addresses: Invalid value: "ten": provided address is not a valid IP, range, nor CIDR`}},
		"two families":  {PoolSpec{Addresses: []string{"10.0.0.1", "::1"}, Prefix: 24}, []string{`spec.addresses: Invalid value: ["10.0.0.1","::1"]: provided addresses are of mixed IP families`}},
		"gateway":       {PoolSpec{Addresses: []string{"10.0.0.1"}, Prefix: 24, Gateway: "x"}, []string{`spec.gateway: Invalid value: "x": ParseAddr("x"): unable to parse IP`}},
		"other gateway": {PoolSpec{Addresses: []string{"10.0.0.1"}, Prefix: 24, Gateway: "::1"}, []string{`spec.gateway: Invalid value: "::1": provided gateway and addresses are of mixed IP families`}},
		"other excluded": {
			PoolSpec{Addresses: []string{"10.0.0.1"}, Prefix: 24, ExcludedAddresses: []string{"::1"}},
			[]string{`spec.excludedAddresses: Invalid value: ["::1"]: addresses and excluded addresses are of mixed IP families`},
		},
		"prefix too long": {PoolSpec{Addresses: []string{"10.0.0.1"}, Prefix: 64}, []string{"spec.prefix: Invalid value: 64: provided prefix is not valid"}},
		"two networks": {
			PoolSpec{Addresses: []string{"10.0.0.1", "10.0.1.1"}, Prefix: 24},
			[]string{`spec.addresses: Invalid value: "10.0.1.1": provided address belongs to a different subnet than others`},
		},
		"grace period": {
			PoolSpec{Addresses: []string{"10.0.0.1"}, Prefix: 24, AddressReuseGracePeriodSeconds: &negative},
			[]string{"spec.addressReuseGracePeriodSeconds: Invalid value: -1: addressReuseGracePeriodSeconds must not be negative"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, err := range validate(&tt.spec) {
				got = append(got, err.Error())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGracePeriodLeft(t *testing.T) {
	released := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		period   *int32
		deleting bool
		after    time.Duration
		want     time.Duration
	}{
		"none":                  {nil, false, 0, 0},
		"just released":         {ptr.To[int32](60), false, 0, time.Minute},
		"some left":             {ptr.To[int32](60), false, 20 * time.Second, 40 * time.Second},
		"over":                  {ptr.To[int32](60), false, time.Hour, 0},
		"pool is being deleted": {ptr.To[int32](60), true, 0, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			claim := &ipamv1.IPAddressClaim{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{Time: released}}}
			pool := &InClusterIPPool{Spec: PoolSpec{AddressReuseGracePeriodSeconds: tt.period}}
			if tt.deleting {
				pool.DeletionTimestamp = claim.DeletionTimestamp
			}
			if got := gracePeriodLeft(claim, pool, released.Add(tt.after)); got != tt.want {
				t.Errorf("%s left, not %s", got, tt.want)
			}
		})
	}
}
