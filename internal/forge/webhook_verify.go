package forge

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// signatures are the headers that sign a delivery, with what stands before the number. All
// are an HMAC-SHA256 over the body; the last comes along with Gitea's own.
var signatures = []struct{ header, prefix string }{
	{"X-Hub-Signature-256", "sha256="},
	{"X-Gitea-Signature", ""},
	{"X-Forgejo-Signature", ""},
	{"X-Gogs-Signature", ""},
}

var errUnsigned = errors.New("the delivery is not signed: set the secret of the webhook on the forge")

// Verify checks that a delivery was signed with one of the secrets. Every signature that it
// carries must be right, and all by the same secret. Secrets that are empty are passed over:
// anyone could sign with them.
func Verify(header http.Header, body []byte, secrets [][]byte) error {
	var sums [][]byte
	for _, s := range signatures {
		for _, value := range header.Values(s.header) {
			digits, ok := strings.CutPrefix(value, s.prefix)
			if ok && digits == "" { // what Gitea sends without a secret
				return errUnsigned
			}
			sum, err := hex.DecodeString(digits)
			if !ok || err != nil || len(sum) != sha256.Size {
				return fmt.Errorf("the signature %s of the delivery is malformed: it must be %q and %d hexadecimal digits", s.header, s.prefix, 2*sha256.Size)
			}
			sums = append(sums, sum)
		}
	}
	if len(sums) == 0 {
		if header.Get("X-Hub-Signature") != "" {
			return errors.New("the delivery is signed with SHA-1 only, which is not accepted: the forge must send X-Hub-Signature-256")
		}
		return errUnsigned
	}
	usable, valid := false, false
	for _, secret := range secrets {
		if len(bytes.TrimSpace(secret)) == 0 {
			continue
		}
		usable = true
		mac := hmac.New(sha256.New, secret)
		mac.Write(body)
		want := mac.Sum(nil)
		all := true
		for _, sum := range sums {
			all = hmac.Equal(sum, want) && all
		}
		valid = valid || all
	}
	switch {
	case !usable:
		return errors.New("there is no webhook secret to check the delivery with: put one into the Secret")
	case !valid:
		return errors.New("the signature of the delivery is not by a known secret: the webhook's secret on the forge and the one here differ, or somebody else sent it")
	}
	return nil
}
