package conform

import (
	"context"
	"testing"

	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

// plain is an upstream test that needs nothing but a store.
type plain struct {
	name string
	run  func(context.Context, *testing.T, storage.Interface)
}

// shared are the tests that are the same for the store and the cacher.
func shared() []plain {
	return []plain{
		{"CreateWithTTL", storagetesting.RunTestCreateWithTTL},
		{"CreateWithKeyExist", storagetesting.RunTestCreateWithKeyExist},
		{"Get", storagetesting.RunTestGet},
		{"UnconditionalDelete", storagetesting.RunTestUnconditionalDelete},
		{"ConditionalDelete", storagetesting.RunTestConditionalDelete},
		{"DeleteWithSuggestion", storagetesting.RunTestDeleteWithSuggestion},
		{"DeleteWithSuggestionAndConflict", storagetesting.RunTestDeleteWithSuggestionAndConflict},
		{"DeleteWithSuggestionOfDeletedObject", storagetesting.RunTestDeleteWithSuggestionOfDeletedObject},
		{"DeleteWithConflict", storagetesting.RunTestDeleteWithConflict},
		{"ValidateDeletionWithSuggestion", storagetesting.RunTestValidateDeletionWithSuggestion},
		{"ValidateDeletionWithOnlySuggestionValid", storagetesting.RunTestValidateDeletionWithOnlySuggestionValid},
		{"PreconditionalDeleteWithSuggestion", storagetesting.RunTestPreconditionalDeleteWithSuggestion},
		{"PreconditionalDeleteWithOnlySuggestionPass", storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass},
		{"ListPaging", storagetesting.RunTestListPaging},
		{"GetListRecursivePrefix", storagetesting.RunTestGetListRecursivePrefix},
		{"KeySchema", storagetesting.RunTestKeySchema},
		{"GuaranteedUpdateWithTTL", storagetesting.RunTestGuaranteedUpdateWithTTL},
		{"GuaranteedUpdateWithConflict", storagetesting.RunTestGuaranteedUpdateWithConflict},
		{"GuaranteedUpdateWithSuggestionAndConflict", storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict},
		{"Watch", storagetesting.RunTestWatch},
		{"WatchFromNonZero", storagetesting.RunTestWatchFromNonZero},
		{"DeleteTriggerWatch", storagetesting.RunTestDeleteTriggerWatch},
		{"DelayedWatchDelivery", storagetesting.RunTestDelayedWatchDelivery},
		{"WatcherTimeout", storagetesting.RunTestWatcherTimeout},
		{"WatchDeleteEventObjectHaveLatestRV", storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV},
		{"WatchInitializationSignal", storagetesting.RunTestWatchInitializationSignal},
		{"SendInitialEventsBackwardCompatibility", storagetesting.RunSendInitialEventsBackwardCompatibility},
		{"WatchSemantics", storagetesting.RunWatchSemantics},
		{"WatchSemanticInitialEventsExtended", storagetesting.RunWatchSemanticInitialEventsExtended},
		{"WatchListMatchSingle", storagetesting.RunWatchListMatchSingle},
		// The cacher needs indexes for these three, which do the store no harm.
		{"NamespaceScopedList", storagetesting.RunTestNamespaceScopedList},
		{"NamespaceScopedWatch", storagetesting.RunTestNamespaceScopedWatch},
		{"ClusterScopedWatch", storagetesting.RunTestClusterScopedWatch},
	}
}
