// Nothing but the vault can be reached from the internet, except for one network of an operator.
using '../main.bicep'
extends '../main.bicepparam'

param environmentName = 'private'
param location = 'swedencentral'
param privateNetwork = true
param privateApp = true
param operatorIpRanges = ['203.0.113.0/29']
param operatorPrincipalId = '00000000-0000-0000-0000-0000000000aa'
param operatorPrincipalType = 'Group'
param managementKey = 'kept-in-the-vault'
param keyVault = true
param exportContainer = 'costs'
