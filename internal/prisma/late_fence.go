package prisma

import (
	"context"
	"fmt"
)

// stillStored reads the pair of a late retry once more, right before its refresh token is
// sent: the user may have connected again since the claim, and a token that was used
// before could end the new grant with the old one. What is not sent is settled so.
func (r *Refresher) stillStored(ctx context.Context, conn Connection, lease RefreshLease, claim Claim) (Tokens, error) {
	current, err := r.reread(ctx, conn)
	if err == nil && current.SamePair(claim.Current) {
		return current, nil
	}
	_ = r.settle(ctx, conn, lease, claim, NotSent) // logged there
	if err != nil {
		return Tokens{}, fmt.Errorf("read the tokens of %s before they are sent again: %w", conn, err)
	}
	return current, nil
}
